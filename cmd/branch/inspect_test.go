package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/ledger"
)

// directory makes a branch's directory with an opened bank and a few transfers in it.
func directory(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "branch1")
	fs, err := journal.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(fs, journal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	none := func([]byte) error { return errors.New("not empty") }
	if err := j.Recover(none, none); err != nil {
		t.Fatal(err)
	}
	var l ledger.Ledger
	var out ledger.Output
	plan := ledger.Plan{Total: 2000, Names: []string{"branch1", "branch2"}, Balances: []uint64{1000, 1000}, Key: make([]byte, 32)}
	if err := l.Open(&out, plan, "branch1", []string{"127.0.0.1:9001", "127.0.0.1:9002"}); err != nil {
		t.Fatal(err)
	}
	l.Start(&out)
	for range 3 {
		if err := l.Transfer(&out, 1, 10, 0, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(j.Commit(out.Persist), j.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInspectAndVerify(t *testing.T) {
	dir := directory(t)
	var stdout bytes.Buffer
	if err := run(context.Background(), []string{"verify", dir}, &stdout, &stdout, nil); err != nil || !strings.Contains(stdout.String(), ": ok, 1 commits") {
		t.Errorf("verify: %v, %q", err, &stdout)
	}
	stdout.Reset()
	if err := run(context.Background(), []string{"inspect", dir}, &stdout, &stdout, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"balance           970", "total             2000", "branch2  127.0.0.1:9002  3           3"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("inspect does not show %q:\n%s", want, &stdout)
		}
	}
}

func TestVerifyRefusesDamage(t *testing.T) {
	dir := directory(t)
	segments, err := filepath.Glob(filepath.Join(dir, "*.segment"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	content[20] ^= 1 // in the header
	if err := os.WriteFile(segments[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	var refused *journal.RefusedError
	if err := readDirectory("verify", dir, os.Stdout); !errors.As(err, &refused) {
		t.Errorf("a damaged header: %v", err)
	}
	if err := readDirectory("verify", t.TempDir(), os.Stdout); err == nil {
		t.Error("an empty directory verifies")
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                                "a name and a port are needed",
		"branch1":                         "a name and a port are needed",
		"branch1 70000":                   "70000",
		"../x 9001":                       "name",
		"branch1 9001 soon":               "interval_ms",
		"branch1 9001 --amount 5-1":       "amount",
		"branch1 9001 --link-delay 9-1ms": "link delay",
		"branch1 9001 --sync never":       "sync",
		"branch1 9001 --nonsense":         "nonsense",
		"branch1 9001 --log-level loud":   "log level",
	} {
		err := run(context.Background(), strings.Fields(args), os.Stdout, os.Stderr, nil)
		if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
