package lifecycle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestHolder: a lock file tells who holds it as long as that process lives; one with the same pid and
// another start time is not it.
func TestHolder(t *testing.T) {
	dir := t.TempDir()
	release, err := Lock(dir, "lock")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	h := ReadHolder(dir, "lock")
	if h == nil || h.PID != os.Getpid() || h.Sockets != "" || !slices.Equal(h.Args, os.Args[1:]) {
		t.Fatalf("%+v", h)
	}
	content, _ := os.ReadFile(filepath.Join(dir, "lock"))
	first, rest, _ := strings.Cut(string(content), "\n")
	for name, line := range map[string]string{
		"another start":   strings.Fields(first)[0] + " 1",
		"no such process": "99999999 1", "old format": strings.Fields(first)[0], "empty": "", "garbage": "x y z",
	} {
		if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(line+"\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		if h := ReadHolder(dir, "lock"); h != nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(first+" /a path/of sockets\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h := ReadHolder(dir, "lock"); h == nil || h.Sockets != "/a path/of sockets" {
		t.Errorf("%+v", h)
	}
}

// TestProcess: a process of somebody else is signalled, and its end is seen, also while it is a zombie.
func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, alive := startTime(cmd.Process.Pid)
	if !alive {
		t.Fatal("it does not live")
	}
	h := &Holder{PID: cmd.Process.Pid, Start: start}
	p, err := h.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if h.lives() { // nobody has waited for it yet
		t.Error("a zombie lives")
	}
	_ = cmd.Wait()
	if _, err := h.Open(); err == nil {
		t.Error("opened after its end")
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after its end: %v", err)
	}
}

// TestSocketDir: in the data directory, or where that is too long for a socket in a short private one.
func TestSocketDir(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp")
	base, err := os.MkdirTemp("/tmp", "c") //nolint:usetesting // t.TempDir is too long for the first case
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(base) }()
	if _, err := SocketDir(base, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none is there: %v", err)
	}
	dir, err := SocketDir(base, true)
	if err != nil || dir != filepath.Join(base, "run") {
		t.Fatalf("%s, %v", dir, err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := SocketDir(base, true); err == nil || !strings.Contains(err.Error(), "not a private directory") {
		t.Errorf("others can reach it: %v", err)
	}
	deep := filepath.Join(base, strings.Repeat("d", 200))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	short, err := SocketDir(deep, true)
	if err != nil || len(short) > maxSocketDir {
		t.Fatalf("%s, %v", short, err)
	}
	if again, err := SocketDir(deep, false); err != nil || again != short {
		t.Errorf("found again: %s, %v", again, err)
	}
	_ = os.RemoveAll(short) // as the system's cleaning does
	other, err := SocketDir(deep, true)
	if err != nil || other == short {
		t.Errorf("made again: %s, %v", other, err)
	}
	_ = os.RemoveAll(other)
}
