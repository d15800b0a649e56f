package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cutbank/internal/controller"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "branches.txt")
	const roster = "branch1 127.0.0.1 1\nbranch2 127.0.0.2 1\n" // where nobody listens
	if err := os.WriteFile(file, []byte(roster), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no arguments":     {nil, "0 arguments, not 2: write <total> <file>", 2},
		"no total":         {[]string{file}, "1 arguments, not 2", 2},
		"swapped":          {[]string{file, "4000"}, "first the total and then the file", 2},
		"a fraction":       {[]string{"40.5", file}, "is not a whole number", 2},
		"too little":       {[]string{"1", file}, "is less than 1 for each of 2 branches", 2},
		"no file":          {[]string{"4000", file + "x"}, "no such file", 2},
		"unknown flag":     {[]string{"4000", file, "--frehs"}, "unknown flag: --frehs", 2},
		"fresh":            {[]string{"4000", file, "--fresh"}, "can't empty branches that are running", 2},
		"amount":           {[]string{"--amount", "lots", "4000", file}, `amount "lots" is neither a number`, 2},
		"amounts":          {[]string{"--amount", "5-3", "4000", file}, `amount "5-3": the lower bound`, 2},
		"interval":         {[]string{"4000", "--interval", "-1s", file}, "interval -1s is negative", 2},
		"long interval":    {[]string{"4000", "--interval", "61m", file}, "is more than an hour", 2},
		"interval unit":    {[]string{"4000", "--interval", "5", file}, "--interval", 2},
		"snapshots":        {[]string{"4000", file, "--snapshots", "-1"}, "can't be negative", 2},
		"no interval":      {[]string{"4000", file, "--snapshot-interval", "0"}, "is not above 0", 2},
		"log level":        {[]string{"4000", file, "--log-level", "loud"}, `--log-level "loud"`, 2},
		"log format":       {[]string{"4000", file, "--log-format", "xml"}, `--log-format "xml"`, 2},
		"nobody there":     {[]string{"4000", file, "--wait", "3s", "--data-dir", filepath.Join(dir, "a")}, "branch1 127.0.0.1:", 4},
		"flags in between": {[]string{"4000", "--wait=3s", file, "--json", "--data-dir", filepath.Join(dir, "b")}, "connection refused", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), c.args, &stdout, &stderr)
			if err == nil || !strings.Contains(err.Error(), c.want) || controller.ExitCode(err) != c.code {
				t.Errorf("exit %d: %v; want %d: %s", controller.ExitCode(err), err, c.code, c.want)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout is for results only: %s", stdout.String())
			}
			if c.code == 4 && !strings.Contains(stderr.String(), "waiting for branches 0/2 (branch1 127.0.0.1:") {
				t.Errorf("stderr: %s", stderr.String())
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"-h": "./controller 4000 branches.txt ", "--version": "controller "} {
		var stdout, stderr bytes.Buffer
		if err := run(t.Context(), []string{flag}, &stdout, &stderr); err != nil || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: %v\n%s", flag, err, stdout.String())
		}
	}
}
