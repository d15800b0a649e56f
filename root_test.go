// Package cutbank_test checks the three scripts at the root, on a small module of their own that
// builds in a second.
package cutbank_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var programs = [...]string{"launcher", "branch", "controller"}

// program is each program of the small module: it prints its version, pid, directory and arguments.
const program = `package main

import ("fmt"; "os")

func main() {
	dir, _ := os.Getwd()
	fmt.Println("v1", os.Getpid(), dir, os.Args[1:])
	os.Exit(7)
}
`

type house struct {
	t    *testing.T
	root string
	cwd  string
	env  []string
}

// newHouse is a fresh clone with small programs, in a directory with a space in its name.
func newHouse(t *testing.T) *house {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, root: filepath.Join(dir, "my bank"), cwd: filepath.Join(dir, "else where"), env: os.Environ()}
	h.write("go.mod", "module cutbank\n\ngo 1.26.0\n", 0o644)
	for _, name := range programs {
		script, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.write(name, string(script), 0o755)
		h.write(filepath.Join("cmd", name, "main.go"), program, 0o644)
	}
	if err := os.Mkdir(h.cwd, 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) write(name, content string, mode os.FileMode) {
	h.t.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		h.t.Fatal(err)
	}
}

// run starts a script and returns what it printed and its exit code.
func (h *house) run(path string, args ...string) (pid int, stdout, stderr string, code int) {
	cmd := exec.Command(path, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = h.cwd, h.env, &out, &errs
	_ = cmd.Run() // its exit code tells
	if cmd.Process != nil {
		pid = cmd.Process.Pid
	}
	return pid, out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// runs expects that the program ran: same process, same directory, its arguments and exit code.
func (h *house) runs(version, path string) (stderr string) {
	h.t.Helper()
	pid, stdout, stderr, code := h.run(path, "4000", "a b")
	want := fmt.Sprintf("%s %d %s [4000 a b]\n", version, pid, h.cwd)
	if stdout != want || code != 7 {
		h.t.Errorf("%s: code %d, stdout %q, want %q; stderr %s", path, code, stdout, want, stderr)
	}
	return stderr
}

func TestScriptsAreTheSame(t *testing.T) {
	first, err := os.ReadFile(programs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		script, err := os.ReadFile(name)
		info, statErr := os.Stat(name)
		if err != nil || statErr != nil || !bytes.Equal(script, first) || info.Mode()&0o111 == 0 {
			t.Errorf("%s is not the same executable script as %s", name, programs[0])
		}
	}
}

func TestScripts(t *testing.T) {
	h := newHouse(t)
	launcher := filepath.Join(h.root, "launcher")

	if stderr := h.runs("v1", launcher); stderr != "launcher: building, takes about a minute the first time ...\n" {
		t.Errorf("first start says %q", stderr)
	}
	if _, err := os.Stat(filepath.Join(h.root, "bin", "branch")); err != nil {
		t.Errorf("the launcher needs bin/branch: %v", err)
	}
	before, err := os.Stat(filepath.Join(h.root, "bin", "launcher"))
	if err != nil {
		t.Fatal(err)
	}
	if stderr := h.runs("v1", launcher); stderr != "" {
		t.Errorf("second start says %q", stderr)
	}
	if after, err := os.Stat(filepath.Join(h.root, "bin", "launcher")); err != nil || !os.SameFile(before, after) {
		t.Errorf("a start with nothing to do replaced the program: %v", err)
	}

	link := filepath.Join(h.cwd, "link")
	if err := os.Symlink("../my bank/launcher", link); err != nil {
		t.Fatal(err)
	}
	h.runs("v1", link)
	h.runs("v1", "../my bank/launcher")

	h.write("cmd/launcher/main.go", strings.Replace(program, "v1", "v2", 1), 0o644)
	h.runs("v2", launcher)

	h.write("cmd/launcher/main.go", "package main\n\nfunc main() { wrong }\n", 0o644)
	if _, stdout, stderr, code := h.run(launcher); code != 1 || stdout != "" ||
		!strings.Contains(stderr, "undefined: wrong") || !strings.HasSuffix(stderr, "launcher: the build failed\n") {
		t.Errorf("source that is wrong: code %d, stdout %q, stderr %q", code, stdout, stderr)
	}

	h.write("go.mod", "module cutbank\n\ngo 1.999.0\n", 0o644)
	h.env = append(h.env, "GOTOOLCHAIN=local")
	if stderr := h.runs("v2", launcher); !strings.Contains(stderr, "1.999.0") ||
		!strings.HasSuffix(stderr, ": running bin/launcher as it is\n") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("Go too old says %q", stderr)
	}
	h.env = append(h.env, "PATH="+pathWithoutGo(t))
	if stderr := h.runs("v2", launcher); !strings.HasSuffix(stderr, "running bin/launcher as it is\n") {
		t.Errorf("no Go says %q", stderr)
	}
	if err := os.RemoveAll(filepath.Join(h.root, "bin")); err != nil {
		t.Fatal(err)
	}
	_, stdout, stderr, code := h.run(launcher)
	want := "launcher: needs Go to be built (https://go.dev/dl), and there is none in PATH\n"
	if code != 1 || stdout != "" || stderr != want {
		t.Errorf("no Go, nothing built: code %d, stdout %q, stderr %q, want %q", code, stdout, stderr, want)
	}
}

// Several start at once on a fresh clone, as four terminals do.
func TestScriptsStartAtOnce(t *testing.T) {
	h := newHouse(t)
	var starts sync.WaitGroup
	for i := range 8 {
		starts.Go(func() { h.runs("v1", filepath.Join(h.root, programs[i%len(programs)])) })
	}
	starts.Wait()
	left, err := filepath.Glob(filepath.Join(h.root, "bin", "*"))
	if err != nil || len(left) != len(programs) {
		t.Errorf("left in bin: %v, %v", left, err)
	}
}

// A build that was killed leaves its lock, and in a container the next start has the same pid.
func TestScriptsOwnLock(t *testing.T) {
	h := newHouse(t)
	bin, launcher := filepath.Join(h.root, "bin"), filepath.Join(h.root, "launcher")
	start := fmt.Sprintf("mkdir '%s'; ln -s $$ '%s/building'; exec '%s'", bin, bin, launcher)
	if _, stdout, stderr, code := h.run("/bin/sh", "-c", start); code != 7 {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// pathWithoutGo is a directory with the few commands that the script uses.
func pathWithoutGo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "dirname", "basename", "readlink"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
