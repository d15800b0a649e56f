package lifecycle_test

import (
	"os"
	"path/filepath"
	"testing"

	"cutbank/internal/lifecycle"
)

// TestWriteFile replaces a file, private, and never writes through a symbolic link.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path, link, target := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	for _, text := range []string{"longer", "new"} {
		if err := lifecycle.WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(content) != "new" || info.Mode() != 0o600 {
		t.Errorf("%q, %v, %v, %v", content, info, err, statErr)
	}
	for range 2 { // to nothing, and to a file
		if err := os.Symlink(target, link); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		if err := lifecycle.WriteFile(link, []byte("through")); err == nil {
			t.Error("written through a link")
		}
		if content, err := os.ReadFile(target); err == nil && string(content) != "there" {
			t.Errorf("the link's target has %q", content)
		}
		if err := os.WriteFile(target, []byte("there"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
