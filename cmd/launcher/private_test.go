package main

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cutbank/internal/controller"
)

// TestPrivate: what a bank with certificates leaves on the disk and shows while it runs is its owner's
// alone, and its secrets are in no log, argument, environment or result.
func TestPrivate(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start("--tls", "auto", "--log-level", "trace", "-v", "--json", "--http", "")
	r.until(`^snapshot 2 `)

	data := filepath.Join(b.dir, "data", "branches.txt-4000")
	plan, err := controller.ReadPlan(data)
	if err != nil || plan == nil {
		t.Fatal(plan, err)
	}
	raw, _ := hex.DecodeString(plan.Key)
	secrets := [][]byte{[]byte(plan.Key), raw}
	keys, err := filepath.Glob(filepath.Join(data, ".tls", "*"))
	if err != nil || len(keys) != 7 {
		t.Fatal(keys, err)
	}
	for _, f := range keys {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "PRIVATE KEY" {
				secrets = append(secrets, block.Bytes[len(block.Bytes)-32:])
				line := regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{60,}`).Find(pem.EncodeToMemory(block))
				secrets = append(secrets, line)
			}
		}
	}
	if len(secrets) != 2+2*6 { // the authority, the controllers, four branches
		t.Fatalf("%d secrets", len(secrets))
	}
	clean := func(what string, content []byte) {
		t.Helper()
		for i, s := range secrets {
			if bytes.Contains(content, s) {
				t.Errorf("%s shows secret %d", what, i)
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	seen := 0
	for _, f := range processes {
		if args, _ := os.ReadFile(f); bytes.Contains(args, []byte(b.dir)) {
			environment, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
			clean("an argument", args)
			clean("the environment", environment)
			seen++
		}
	}
	if _, err := os.Stat("/proc/self"); err == nil && seen < 5 {
		t.Errorf("%d processes seen, not 5", seen)
	}
	private(t, filepath.Join(b.dir, "data"), func(string, []byte) {}) // sockets among it
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for line := range r.lines {
		clean("stderr", []byte(line))
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	clean("stdout", r.out.Bytes())
	private(t, filepath.Join(b.dir, "data"), func(path string, content []byte) {
		if base := filepath.Base(path); base != controller.PlanFile && !strings.Contains(base, ".segment") && filepath.Base(filepath.Dir(path)) != ".tls" {
			clean(path, content)
		}
	})
}

// private checks the modes of a tree, and shows its files.
func private(t *testing.T, root string, show func(path string, content []byte)) {
	t.Helper()
	entries := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil // the bank runs, and its files come and go
		}
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		entries++
		// Nobody else reaches a socket in a private directory.
		if info.Mode().Perm()&0o077 != 0 && info.Mode()&fs.ModeSocket == 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			show(path, content)
			return err
		}
		return nil
	})
	if err != nil || entries == 0 {
		t.Errorf("%s: %d entries, %v", root, entries, err)
	}
}

// TestLinks: a symbolic link in place of what a bank writes is refused, and what it points to is left alone.
func TestLinks(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	data := filepath.Join(b.dir, "data", "branches.txt-4000")
	for _, name := range []string{"", "launcher.lock", "bank.json", "snapshots.jsonl", "events.jsonl", "shiviz.log"} {
		if err := os.RemoveAll(filepath.Dir(data)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(data, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(t.TempDir(), "elsewhere")
		if name == "" {
			_ = os.Mkdir(target, 0o700)
		} else if err := os.WriteFile(target, []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		out, err := b.command("--snapshots", "1", "--http", "", "--record=shiviz").CombinedOutput()
		if err == nil || !regexp.MustCompile(`symbolic link|too many levels|no link|not a regular file`).Match(out) {
			t.Errorf("a link as %q: %v\n%s", name, err, out)
		}
		if content, err := os.ReadFile(target); name != "" && (err != nil || string(content) != "untouched") {
			t.Errorf("what the link %q points to: %q, %v", name, content, err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(data)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, stderr := b.run(1); !strings.Contains(stderr, "everybody's to write") {
		t.Errorf("a directory for everybody:\n%s", stderr)
	}
}
