package supervise

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"cutbank/internal/lifecycle"
)

// Health checks: three missed in a row make a hung child, in less than 2 s.
const (
	checkEvery = 250 * time.Millisecond
	checkLimit = 250 * time.Millisecond
	maxMisses  = 3
	// maxLate bounds how late the launcher's own timer may be for a miss to count.
	maxLate = 100 * time.Millisecond
)

// exitLocked is a child's exit code when its directory is in use (EX_TEMPFAIL).
const exitLocked = 75

// process is one run of a child.
type process struct {
	cfg      *Config
	child    Child
	restarts int
	diedAt   time.Time // exit of the run before; zero: none
	tell     func(Event)

	pid     int
	readyAt time.Time
	exit    string
	killed  bool // by SIGKILL, and not from here: nothing that the child did
	hung    bool
	said    lastLine
}

func (p *process) event(state State) Event {
	return Event{State: state, PID: p.pid, Restarts: p.restarts}
}

// run starts the process and returns after its exit.
func (p *process) run(ctx context.Context) {
	sockets, err := os.MkdirTemp(p.cfg.Sockets, "") // its own: a process that is killed leaves its socket
	if err != nil {
		p.exit = fmt.Sprintf("could not be started: %v", err)
		return
	}
	defer func() { _ = os.RemoveAll(sockets) }()
	starting, abandon := context.WithCancel(context.Background())
	defer abandon()
	started := context.AfterFunc(ctx, abandon)                          // a stop does not wait for the handshake
	cmd := exec.CommandContext(starting, p.child.Path, p.child.Args...) //nolint:gosec // the program's own children
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.cfg.Stop // then it is killed
	cmd.Env = append(os.Environ(), plugin.EnvUnixSocketDir+"="+sockets)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C in the terminal is the launcher's alone
	logs := tailLog(p.child.Log, p.cfg.Logger.Named(p.child.Name))
	defer logs.stop()
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: lifecycle.Handshake(), Plugins: lifecycle.Plugins(), Cmd: cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, StartTimeout: p.cfg.Start,
		Logger: hclog.NewNullLogger(), Stderr: &p.said, SyncStdout: io.Discard, SyncStderr: io.Discard,
	})
	p.tell(p.event(Starting))
	remote, err := lifecycle.Connect(client)
	started()
	if cmd.Process != nil {
		p.pid = cmd.Process.Pid
	}
	if err != nil {
		p.end(client, cmd, false)
		p.exit = p.words(cmd, err)
		return
	}
	p.tell(p.event(Running))
	if p.watch(ctx, remote) {
		p.tell(p.event(Stopping))
		p.terminate(cmd, remote)
	}
	p.end(client, cmd, true)
	p.exit = p.words(cmd, nil)
}

// watch returns when the process has ended or hangs, or when it is to be stopped.
func (p *process) watch(ctx context.Context, remote *lifecycle.Remote) (stop bool) {
	tick := time.NewTicker(10 * time.Millisecond) // until ready; then checkEvery
	defer tick.Stop()
	misses, state := 0, Running
	last, every := time.Now(), 10*time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return true
		case <-remote.Exited:
			return false
		case <-tick.C:
		}
		punctual := time.Since(last) < every+maxLate
		switch seen := p.check(ctx, remote); {
		case seen != Suspect:
			misses = 0
			switch seen {
			case state:
			case Ready:
				p.becameReady()
			default:
				p.tell(p.event(seen))
			}
			state = seen
		case punctual:
			misses++
			if misses >= maxMisses {
				p.cfg.Logger.Warn("child hangs, killing it", "child", p.child.Name, "pid", p.pid, "missed_checks", misses)
				p.hung = true
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
				<-remote.Exited
				return false
			}
			if misses == 1 {
				state = Suspect
				p.tell(p.event(Suspect))
			}
		}
		if state != Running && every != checkEvery {
			every = checkEvery
			tick.Reset(every)
		}
		last = time.Now()
	}
}

// check asks the process how it is: Ready, Running or Suspect.
func (p *process) check(ctx context.Context, remote *lifecycle.Remote) State {
	if remote.Check(ctx, lifecycle.ServiceReady, checkLimit) {
		return Ready
	}
	if remote.Check(ctx, lifecycle.ServiceAlive, checkLimit) {
		return Running
	}
	return Suspect
}

func (p *process) becameReady() {
	e := p.event(Ready)
	if p.readyAt.IsZero() {
		p.readyAt = time.Now()
		if !p.diedAt.IsZero() {
			e.Down = p.readyAt.Sub(p.diedAt)
		}
	}
	p.tell(e)
}

// terminate asks the process to end, and kills it when it does not.
func (p *process) terminate(cmd *exec.Cmd, remote *lifecycle.Remote) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-remote.Exited:
		return
	case <-time.After(p.cfg.Stop):
	}
	p.cfg.Logger.Warn("branch does not end, killing it", "branch", p.child.Name, "pid", p.pid, "after", p.cfg.Stop.String())
	_ = cmd.Process.Kill()
	<-remote.Exited
}

// end lets go-plugin clean up after a process that has ended, or that never got through the
// handshake.
func (p *process) end(client *plugin.Client, cmd *exec.Cmd, ended bool) {
	if !ended && cmd.Process != nil {
		_ = cmd.Process.Kill()
	}
	client.Kill()
}

// words says how the process ended.
func (p *process) words(cmd *exec.Cmd, start error) string {
	said := p.said.String()
	state := cmd.ProcessState
	switch {
	case state == nil && start != nil && said == "":
		return fmt.Sprintf("could not be started: %v", start)
	case state == nil:
		return orElse(said, "ended")
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		p.killed = status.Signal() == syscall.SIGKILL && !p.hung && start == nil
		return "signal " + status.Signal().String()
	case state.ExitCode() == exitLocked:
		return orElse(said, "data directory in use")
	case state.ExitCode() == 0 && start == nil:
		return "ended in order"
	}
	return fmt.Sprintf("exit code %d: %s", state.ExitCode(), orElse(said, "see its log"))
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// lastLine keeps the last line that is written to it: a child's last words. Bounded.
type lastLine struct {
	mu   sync.Mutex
	line string
}

// Write never fails.
func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			l.line = line[:min(len(line), 512)]
		}
	}
	return len(b), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}
