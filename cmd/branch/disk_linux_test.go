package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk gives a branch of a bank at full load a disk of 1 MiB that fills up. The branch ends and
// says why, the others pay on, and after space is made it is back and nothing is lost. The same with a
// limit on the size of its files.
func TestFullDisk(t *testing.T) {
	b := newTrial(t, 4)
	dir := filepath.Join(b.dataDir(), b.name(1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("cutbank", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
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
	b.start() // its clean-up ends the branches before that of the disk
	ballast := filepath.Join(dir, "ballast")
	for range 3 {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		b.said(`^branch2 ended \(pid \d+, exit code 1: (?:branch: )?disk full: make space and start the branch again, nothing is lost: .*no space left on device`)
		b.isBack(1, func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		})
		b.forget()
	}
	for try, large := 1, false; !large; try++ { // again when it passed for hung before it met the limit
		if try > 5 {
			t.Fatal("the file is never too large")
		}
		for _, pid := range b.pids(b.name(1)) {
			if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: trialSegment / 2, Max: trialSegment / 2}, nil); err != nil {
				t.Fatal(err)
			}
			words := b.said(fmt.Sprintf(`^branch2 ended \(pid %d, `, pid))
			large = strings.Contains(words, "exit code 1: ") && strings.Contains(words, "file too large")
		}
	}
	b.another()
	b.drain()
	b.stop()
}
