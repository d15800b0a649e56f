package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one run of somebody's program, in a process group of its own, so that what it starts
// ends with it.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    string

	mu     sync.Mutex
	asked  bool // its end was asked for
	reason string
}

// start runs a program, its output to a file.
func start(argv []string, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // in the data directory
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer func() { _ = f.Close() }()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{}), log: log} //nolint:gosec // the user's own command
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Linux ends the child with the thread that started it
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = p.cmd.Wait()
		p.end(err)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return p, nil
}

func (p *process) end(err error) {
	reason := "exit code 0"
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		reason = exit.Error()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && !status.Signaled() {
			reason = fmt.Sprintf("exit code %d", exit.ExitCode())
		}
	} else if err != nil {
		reason = err.Error()
	}
	p.mu.Lock()
	if !p.asked {
		if last := p.lastLine(); last != "" {
			reason += ": " + last
		}
	}
	p.reason = reason
	p.mu.Unlock()
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what it has started
	close(p.exited)
}

// lastLine is the end of its output: its last words.
func (p *process) lastLine() string {
	const read = 4096
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, read)
	if info, err := f.Stat(); err == nil && info.Size() > read {
		_, _ = f.Seek(-read, 2)
	}
	n, _ := f.Read(buf)
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	for _, line := range lines { // Go's is above the stack
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// signal goes to the whole group; asked says that an end that follows is no surprise.
func (p *process) signal(s syscall.Signal, asked bool) {
	p.mu.Lock()
	p.asked = p.asked || asked
	p.mu.Unlock()
	select {
	case <-p.exited:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// ended tells how, and whether it was asked to.
func (p *process) ended() (reason string, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason, p.asked
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stopTimeout is how long a branch may take to end when it is asked to.
const stopTimeout = 5 * time.Second

// stopAll ends processes: SIGTERM to all, and SIGKILL to those that are still there, by name.
func stopAll(names []string, all []*process, timeout time.Duration, say func(string, ...any)) {
	for _, p := range all {
		if p != nil {
			p.signal(syscall.SIGTERM, true)
			p.signal(syscall.SIGCONT, true)
		}
	}
	patience, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var slow []string
	for i, p := range all {
		if p == nil {
			continue
		}
		select {
		case <-p.exited:
		case <-patience.Done():
			if p.running() {
				slow = append(slow, names[i])
			}
		}
	}
	if len(slow) > 0 {
		say("killed, since they had not ended %s after SIGTERM: %s", timeout, strings.Join(slow, ", "))
	}
	for _, p := range all {
		if p != nil {
			p.signal(syscall.SIGKILL, true)
			<-p.exited
		}
	}
}
