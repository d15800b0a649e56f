package journal_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cutbank/internal/journal"
)

// TestFullDisk fills a real file system of 1 MiB: the failure says what it is,
// and after space is made a new start finds every commit that was acknowledged.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("cutbank", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("a tmpfs can't be mounted: %v", err)
		}
		t.Skipf("SKIPPED: a tmpfs can't be mounted (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	for _, hog := range []int{200_000, 500_000, 800_000} {
		if err := os.WriteFile(ballast, make([]byte, hog), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := journal.Dir(filepath.Join(dir, "branch"))
		if err != nil {
			t.Fatal(err)
		}
		var m model
		cfg := journal.Config{SegmentBytes: 64 << 10}
		j := mustOpen(t, d, cfg, &m)
		for err == nil {
			err = commit(j, &m)
		}
		var failed *journal.FailedError
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &failed) {
			t.Fatalf("full disk: %v", err)
		}
		t.Logf("%d commits: %v", m.n, err)
		if again := commit(j, &m); !errors.Is(again, err) {
			t.Fatalf("after a full disk: %v", again)
		}
		if err := errors.Join(j.Close(), os.Remove(ballast)); err != nil {
			t.Fatal(err)
		}
		acked := m
		j = mustOpen(t, d, cfg, &m)
		if m.n != acked.n || m.sum != acked.sum {
			t.Fatalf("%d commits recovered, %d acknowledged", m.n, acked.n)
		}
		// Room for the next round.
		if err := errors.Join(j.Checkpoint(m.state()), j.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
