package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cutbank/internal/lifecycle"
)

// TestLogSize: a log that is larger than so much becomes branch.log.old when its branch starts.
func TestLogSize(t *testing.T) {
	handshake := lifecycle.Handshake()
	t.Setenv(handshake.MagicCookieKey, handshake.MagicCookieValue)
	for size, begun := range map[int64]bool{maxLog: false, maxLog + 1: true} {
		o := options{name: "b", dataDir: t.TempDir(), level: "info"}
		path := filepath.Join(o.dataDir, "b", "branch.log")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil { // zeros, which take no room
			t.Fatal(err)
		}
		log, done, err := o.logger(os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("here")
		done()
		old, err := os.Stat(path + ".old")
		if now, _ := os.Stat(path); begun != (err == nil) || begun && (old.Size() != size || now.Size() > 1000) || !begun && now.Size() <= size {
			t.Errorf("%d bytes: old %v, now %v", size, old, now)
		}
		if text, _ := os.ReadFile(path); !strings.HasSuffix(string(text), "\n") {
			t.Errorf("%d bytes: nothing was logged", size)
		}
	}
}
