package supervise

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"cutbank/internal/lifecycle"
)

// realHost starts real processes, over go-plugin.
type realHost struct{ cfg *Config }

func (h *realHost) dial(ctx context.Context, addr string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func (h *realHost) start(c Child) (process, error) {
	if c.Dir != "" {
		switch holder := lifecycle.ReadHolder(c.Dir, lifecycle.LockFile); {
		case holder == nil:
		case holder.Sockets == "":
			return nil, &lifecycle.HeldError{Dir: c.Dir, PID: holder.PID}
		default:
			if p, err := h.adopt(c, holder); err == nil {
				return p, nil
			} // it has ended this very moment
		}
	}
	return h.spawn(c)
}

// run is a process under go-plugin, started here (cmd) or by an earlier launcher (old). It is the runner
// that go-plugin asks to start and to wait.
type run struct {
	child    Child
	cmd      *exec.Cmd
	old      *lifecycle.Process
	note     string // about old
	sockets  string // of old
	client   *plugin.Client
	out, err io.ReadCloser

	began     chan struct{} // the process is there
	connected chan struct{} // remote is set, or will not be
	remote    *lifecycle.Remote
	ended     chan struct{}
	left      chan struct{}
	said      lastLine
	logs      *tail
}

func (h *realHost) newRun(c Child) *run {
	r := &run{
		child: c, began: make(chan struct{}), connected: make(chan struct{}), ended: make(chan struct{}), left: make(chan struct{}),
	}
	// An adopted process has nobody on its stderr; of others the last line there comes after the log's.
	r.logs = tailLog(c.Log, h.cfg.Logger.Named(c.Name), r.said.set)
	return r
}

func (h *realHost) config() *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig: lifecycle.Handshake(), Plugins: lifecycle.Plugins(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, StartTimeout: h.cfg.Start,
		Logger: hclog.NewNullLogger(), SyncStdout: io.Discard, SyncStderr: io.Discard,
	}
}

// spawn returns when the process is there; the handshake goes on.
func (h *realHost) spawn(c Child) (process, error) {
	r := h.newRun(c)
	cfg := h.config()
	cfg.Stderr = &r.said
	cfg.UnixSocketConfig = &plugin.UnixSocketConfig{TempDir: h.cfg.Sockets}
	cfg.RunnerFunc = func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
		r.cmd = exec.Command(c.Path, c.Args...) //nolint:gosec // the program's own children
		r.cmd.Env = spec.Env
		// Ctrl-C in the terminal is the launcher's alone. Not a session each: Linux' autogroups would share
		// the cores among sessions before processes, and a bank would run at half its speed.
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var err error
		if r.out, err = r.cmd.StdoutPipe(); err == nil {
			r.err, err = r.cmd.StderrPipe()
		}
		return r, err
	}
	r.client = plugin.NewClient(cfg)
	var err error
	go func() {
		defer close(r.connected)
		r.remote, err = lifecycle.Connect(r.client)
	}()
	select {
	case <-r.began:
		return r, nil
	case <-r.connected:
	}
	select {
	case <-r.began: // and ended
		return r, nil
	default:
		r.logs.stop()
		r.client.Kill()
		return nil, err
	}
}

// adopt takes over a process of an earlier launcher. It answers health checks, or it does not and is
// treated like any child that hangs.
func (h *realHost) adopt(c Child, holder *lifecycle.Holder) (process, error) {
	old, err := holder.Open()
	if err != nil {
		return nil, err
	}
	r := h.newRun(c)
	r.old, r.sockets = old, holder.Sockets
	close(r.began)
	if !slices.Equal(holder.Args, c.Args) {
		r.note = "with the flags of the launcher before (restart gives it the new ones)"
	}
	socket, err := r.socket()
	if err != nil {
		h.cfg.Logger.Warn("adopted branch can't be asked how it is", "branch", c.Name, "pid", old.PID, "err", err)
		close(r.connected)
		go func() { _ = r.Wait(context.Background()) }()
		return r, nil
	}
	cfg := h.config()
	cfg.Reattach = &plugin.ReattachConfig{
		Protocol: plugin.ProtocolGRPC, ProtocolVersion: 1, Addr: &net.UnixAddr{Name: socket, Net: "unix"}, Pid: old.PID,
		ReattachFunc: func() (runner.AttachedRunner, error) { return r, nil },
	}
	r.client = plugin.NewClient(cfg)
	go func() {
		defer close(r.connected)
		r.remote, _ = lifecycle.Connect(r.client)
	}()
	return r, nil
}

// socket is the one where an adopted process answers, served by it and nobody else.
func (r *run) socket() (string, error) {
	found, _ := filepath.Glob(filepath.Join(r.sockets, "plugin*"))
	if len(found) != 1 {
		return "", fmt.Errorf("%d sockets in %s", len(found), r.sockets)
	}
	c, err := lifecycle.DialPeer(found[0], r.old.PID)
	if err != nil {
		return "", err
	}
	return found[0], c.Close()
}

func (r *run) pid() int {
	if r.old != nil {
		return r.old.PID
	}
	return r.cmd.Process.Pid
}

func (r *run) adopted() (note string, ok bool) { return r.note, r.old != nil }

func (r *run) check(limit time.Duration) lifecycle.Answer {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	select {
	case <-r.connected:
	case <-ctx.Done():
		return lifecycle.Answer{}
	}
	if r.remote == nil {
		<-ctx.Done()
		return lifecycle.Answer{}
	}
	return r.remote.Check(ctx)
}

func (r *run) signal(s syscall.Signal) {
	if r.old != nil {
		_ = r.old.Signal(s) // it has ended: that is seen elsewhere
		return
	}
	_ = r.cmd.Process.Signal(s)
}

func (r *run) leave() { close(r.left) }

// wait sees the end of the process, and lets go-plugin clean up after it.
func (r *run) wait() exit {
	left := false
	select {
	case <-r.ended:
	case <-r.left:
		left = true
	}
	r.logs.stop()
	if left {
		return exit{}
	}
	if r.client != nil {
		r.client.Kill()
		<-r.connected
	}
	if r.old != nil {
		r.old.Close()
		_ = os.RemoveAll(r.sockets)
		return r.lastWords()
	}
	return r.words()
}

// lastWords of an adopted process: its exit status went to whoever was its parent.
func (r *run) lastWords() exit {
	if said := r.said.String(); said != "" {
		return exit{words: said, cause: Exited}
	}
	return exit{words: "ended without a word; it was adopted, so its exit status is not known"}
}

// words says how a process of ours ended.
func (r *run) words() exit {
	said, state := strings.TrimPrefix(r.said.String(), filepath.Base(r.child.Path)+": "), r.cmd.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		x := exit{words: "signal " + status.Signal().String(), cause: Exited} // a fault of its own, most likely
		switch status.Signal() {
		case syscall.SIGKILL:
			x.cause = Killed
		case syscall.SIGTERM:
			x.cause = "" // in order when it was asked for: it came before the process could take it
		default:
		}
		return x
	}
	switch state.ExitCode() {
	case lifecycle.ExitLocked:
		x := exit{words: orElse(said, "data directory in use"), cause: Exited, locked: r.child.Dir != ""}
		if holder := lifecycle.ReadHolder(r.child.Dir, lifecycle.LockFile); holder != nil {
			x.holder, x.adoptable = holder.PID, holder.Sockets != ""
		}
		return x
	case 0:
		return exit{words: "ended in order", cause: InOrder}
	}
	return exit{words: fmt.Sprintf("exit code %d: %s", state.ExitCode(), orElse(said, "see its log")), cause: Exited}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// What go-plugin asks of a runner.

// Start the process.
func (r *run) Start(context.Context) error {
	if err := r.cmd.Start(); err != nil {
		return err
	}
	close(r.began)
	return nil
}

// Wait for its end.
func (r *run) Wait(ctx context.Context) error {
	defer close(r.ended)
	if r.old != nil {
		return r.old.Wait(ctx)
	}
	return r.cmd.Wait()
}

// Kill it.
func (r *run) Kill(context.Context) error {
	if r.old != nil || r.cmd.Process != nil {
		r.signal(syscall.SIGKILL)
	}
	return nil
}

// ID of the process; empty before its start.
func (r *run) ID() string {
	if r.old == nil && (r.cmd == nil || r.cmd.Process == nil) {
		return ""
	}
	return strconv.Itoa(r.pid())
}

// Stdout is where the handshake comes.
func (r *run) Stdout() io.ReadCloser { return r.out }

// Stderr is where last words come.
func (r *run) Stderr() io.ReadCloser { return r.err }

// Name of the program.
func (r *run) Name() string { return r.child.Path }

// Diagnose knows no more than the last words.
func (r *run) Diagnose(context.Context) string { return r.said.String() }

// PluginToHost is the same address.
func (r *run) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }

// HostToPlugin is the same address.
func (r *run) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }

// lastLine keeps the last line that is written to it: a child's last words. Bounded.
type lastLine struct {
	mu   sync.Mutex
	line string
}

// Write never fails.
func (l *lastLine) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		l.set(line)
	}
	return len(b), nil
}

func (l *lastLine) set(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line = strings.TrimSpace(line); line != "" {
		l.line = line[:min(len(line), 512)]
	}
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}
