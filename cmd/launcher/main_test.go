package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built are the programs that the tests of this package run, built once each.
var built = struct {
	dir              string
	programs, hooked func() error
}{}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cutbank-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	build := func(args ...string) func() error {
		return sync.OnceValue(func() error {
			cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-o"}, args...)...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	built.programs = build(dir+"/", "cutbank/cmd/launcher", "cutbank/cmd/branch", "cutbank/examples/branches/go")
	built.hooked = build(filepath.Join(dir, "hooked"), "-tags=hooks", "cutbank/cmd/branch")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// install puts the programs into a directory: links, so that each bank's processes have a path of their own.
func install(t *testing.T, dir, branch string) {
	t.Helper()
	err := built.programs()
	if err == nil && branch == "hooked" {
		err = built.hooked()
	}
	for to, from := range map[string]string{"launcher": "launcher", "branch": branch, "go": "go"} {
		if err == nil {
			err = os.Link(filepath.Join(built.dir, from), filepath.Join(dir, to))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
