package supervise

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/lifecycle"
)

// The children of these tests are this test binary: under a launcher it is a child whose first
// argument says how it behaves.
func TestMain(m *testing.M) {
	if lifecycle.Supervised() {
		os.Exit(child(os.Args[1], os.Args[2:]))
	}
	os.Exit(m.Run())
}

// child is a program as a launcher runs it: SIGUSR1 hangs its loop, SIGUSR2 turns its readiness over.
func child(mode string, args []string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	switch mode {
	case "exits":
		fmt.Fprintln(os.Stderr, "first words")
		fmt.Fprintln(os.Stderr, "no such port")
		return 3
	case "mute": // never gets through the handshake, and does not end when asked to
		_ = os.WriteFile(args[0], nil, 0o600)
		select {}
	case "locks":
		if _, err := lifecycle.Lock(args[0], lifecycle.LockFile); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return lifecycle.ExitLocked
		}
	case "logs":
		if f, err := os.OpenFile(args[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			logger := hclog.New(&hclog.LoggerOptions{JSONFormat: true, Output: f, Level: hclog.Debug})
			logger.Debug("recovered", "commits", 3)
			logger.Warn("disk is slow", "ms", 70)
			fmt.Fprintln(f, "not JSON")
			_ = f.Close()
		}
	}
	health := lifecycle.NewHealth()
	ready := true
	health.SetReady(ready)
	go lifecycle.Serve(health)
	for beat := time.Tick(20 * time.Millisecond); ; {
		select {
		case <-beat:
			health.Beat()
		case s := <-signals:
			switch {
			case s == syscall.SIGUSR1:
				select {}
			case s == syscall.SIGUSR2:
				ready = !ready
				health.SetReady(ready)
			case mode != "deaf":
				return 0
			}
		}
	}
}

// bench runs a supervisor and sees its events.
type bench struct {
	*Supervisor
	t      *testing.T
	events chan Event
	stop   func() // in order; returns when Run has

	mu   sync.Mutex
	pids []int
}

func start(t *testing.T, cfg Config, children ...Child) *bench {
	t.Helper()
	sockets, err := os.MkdirTemp("", "cutbank-test-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, sockets, cfg, children...)
}

func startIn(t *testing.T, sockets string, cfg Config, children ...Child) *bench {
	t.Helper()
	b := &bench{t: t, events: make(chan Event, 100_000)}
	var err error
	cfg.Sockets, cfg.Children = sockets, children
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	cfg.OnEvent = func(e Event) {
		b.mu.Lock()
		b.pids = append(b.pids, e.PID)
		b.mu.Unlock()
		b.events <- e
	}
	if b.Supervisor, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("Run does not return")
		}
	})
	t.Cleanup(func() {
		b.stop()
		for _, pid := range b.pids {
			if ours(pid) {
				t.Errorf("process %d is left", pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		_ = os.RemoveAll(sockets)
	})
	return b
}

// ours tells that a process of this very program has the pid, and not one that came to it later.
func ours(pid int) bool {
	path, err := os.Executable()
	program, linkErr := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && linkErr == nil && pid != os.Getpid() && program == path
}

func self(t *testing.T, name string, args ...string) Child {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if args[0] == "logs" {
		args = append(args, log)
	}
	return Child{Name: name, Path: path, Args: args, Log: log}
}

// until waits for an event of a child.
func (b *bench) until(name string, kind Kind) Event {
	b.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case e := <-b.events:
			if e.Child == name && e.Kind == kind {
				return e
			}
		case <-deadline:
			b.t.Fatalf("%s is never %s: %+v", name, kind, b.Status())
		}
	}
}

func (b *bench) signal(pid int, s syscall.Signal) {
	b.t.Helper()
	if pid == 0 { // which would be this process group
		b.t.Fatal("the child does not run")
	}
	if err := syscall.Kill(pid, s); err != nil {
		b.t.Fatal(err)
	}
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		cause  Cause
	}{
		{"killed", syscall.SIGKILL, Killed},
		{"stopped", syscall.SIGSTOP, Hung},
		{"loop hangs", syscall.SIGUSR1, Hung},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Config{}, self(t, "a", "good"))
			first := b.until("a", EventReady)
			if first.PID == 0 || first.Restarts != 0 || first.Down != 0 {
				t.Errorf("at the first start: %+v", first)
			}
			b.signal(first.PID, test.signal)
			if test.cause == Hung {
				b.until("a", EventSuspect)
				b.until("a", EventHung)
			}
			if e := b.until("a", EventExited); e.PID != first.PID || e.Exit != "signal killed" || e.Cause != test.cause {
				t.Errorf("after the exit: %+v", e)
			}
			second := b.until("a", EventReady)
			if second.PID == first.PID || second.Restarts != 1 || second.Down <= 0 {
				t.Errorf("after the restart: %+v", second)
			}
			if s := b.Status()[0]; s.State != Ready || s.PID != second.PID || s.Restarts != 1 || s.LastExit != "signal killed" {
				t.Errorf("status: %+v", s)
			}
		})
	}
}

// TestKilledOften: a kill -9 from outside never uses up the budget.
func TestKilledOften(t *testing.T) {
	t.Parallel()
	b := start(t, Config{}, self(t, "a", "good"))
	var downs []time.Duration
	e := b.until("a", EventReady)
	for k := range 2 * earlyBudget {
		b.signal(e.PID, syscall.SIGKILL)
		if e = b.until("a", EventReady); e.Restarts != k+1 {
			t.Errorf("restarts %d, not %d", e.Restarts, k+1)
		}
		downs = append(downs, e.Down)
	}
	slices.Sort(downs)
	t.Logf("exit to ready: median %s, longest %s", downs[len(downs)/2], downs[len(downs)-1])
}

// TestFailed: a child that can't start is shown as failed with its last words, and the other one
// does not feel it.
func TestFailed(t *testing.T) {
	t.Parallel()
	b := start(t, Config{}, self(t, "bad", "exits"), self(t, "good", "good"))
	good := b.until("good", EventReady)
	e := b.until("bad", EventFailed)
	if want := "exit code 3: no such port"; e.Exit != want || b.Status()[0].LastExit != want || e.Restarts != earlyBudget-1 {
		t.Errorf("%+v, status %+v", e, b.Status()[0])
	}
	if s := b.Status()[1]; (s.State != Ready || s.PID != good.PID || s.Restarts != 0) && s.Causes[Hung] == 0 {
		t.Errorf("the other one: %+v", s)
	}
}

// TestLeaveTheDead: a supervisor that leaves while the process of a child has ended leaves the others alone.
func TestLeaveTheDead(t *testing.T) {
	t.Parallel()
	b := start(t, Config{}, self(t, "bad", "exits"), self(t, "good", "good"))
	good := b.until("good", EventReady)
	b.until("bad", EventFailed)
	b.Leave()
	b.stop()
	s := b.Status()[1]
	if !ours(s.PID) || s.PID != good.PID && s.Causes[Hung] == 0 {
		t.Errorf("the other one: %+v", s)
	}
	for b.signal(s.PID, syscall.SIGKILL); ours(s.PID); {
		time.Sleep(time.Millisecond)
	}
}

// TestTerminated: SIGTERM that comes before a process can take it ends it in order, if that was asked for.
func TestTerminated(t *testing.T) {
	t.Parallel()
	for signal, cause := range map[syscall.Signal]Cause{syscall.SIGTERM: "", syscall.SIGKILL: Killed, syscall.SIGABRT: Exited} {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
		if x := (&run{cmd: cmd}).words(); x.cause != cause {
			t.Errorf("%s: %+v", signal, x)
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	b := start(t, Config{}, self(t, "a", "good"), self(t, "b", "good"))
	for ready := map[string]bool{}; len(ready) < 2; {
		if e := <-b.events; e.Kind == EventReady {
			ready[e.Child] = true
		}
	}
	b.stop()
	for _, s := range b.Status() {
		if s.State != Stopped || s.PID != 0 || s.LastExit != "ended in order" {
			t.Errorf("%+v", s)
		}
	}
	if left, err := os.ReadDir(b.cfg.Sockets); err != nil || len(left) != 0 {
		t.Errorf("sockets left: %v, %v", left, err)
	}
}

// TestStopByForce: children that do not end when asked to are killed after Config.Stop, in each state.
func TestStopByForce(t *testing.T) {
	t.Parallel()
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		b := start(t, Config{Stop: 50 * time.Millisecond}, self(t, "a", "deaf"))
		b.until("a", EventReady)
		b.stop()
		if s := b.Status()[0]; s.State != Stopped || s.LastExit != "signal killed" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("starting", func(t *testing.T) {
		t.Parallel()
		up := filepath.Join(t.TempDir(), "up")
		b := start(t, Config{Stop: 50 * time.Millisecond, Start: time.Hour}, self(t, "a", "mute", up))
		for {
			if _, err := os.Stat(up); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		b.stop()
		if s := b.Status()[0]; s.State != Stopped || s.LastExit != "signal killed" {
			t.Errorf("%+v", s)
		}
	})
}

// TestReadiness: a child that can't do all its work for a while is running, not ready, and lives on.
func TestReadiness(t *testing.T) {
	t.Parallel()
	b := start(t, Config{}, self(t, "a", "good"))
	e := b.until("a", EventReady)
	b.signal(e.PID, syscall.SIGUSR2)
	b.until("a", EventUnready)
	b.signal(e.PID, syscall.SIGUSR2)
	if again := b.until("a", EventReady); (again.PID != e.PID || again.Restarts != 0 || again.Down != 0) && b.Status()[0].Causes[Hung] == 0 {
		t.Errorf("%+v", again)
	}
}

// TestLog: what a child writes to its log is given out with its level, under its name.
func TestLog(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	logger := hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Debug, DisableTime: true, Name: "launcher"})
	c := self(t, "a", "logs")
	if err := os.WriteFile(c.Log, []byte("of an earlier run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, Config{Logger: logger}, c)
	b.until("a", EventReady)
	b.stop()
	want := "[DEBUG] launcher.a: recovered: commits=3\n[WARN]  launcher.a: disk is slow: ms=70\n[INFO]  launcher.a: not JSON\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &out, want)
	}
}
