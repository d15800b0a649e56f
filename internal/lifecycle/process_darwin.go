package lifecycle

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const zombie = 5 // SZOMB

// startTime of a process in microseconds since 1970. A zombie does not live.
func startTime(pid int) (us uint64, alive bool) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid || info.Proc.P_stat == zombie {
		return 0, false
	}
	t := info.Proc.P_starttime
	return uint64(t.Sec)*1_000_000 + uint64(t.Usec), true //nolint:gosec // a time after 1970
}

// Process is one that somebody else has started. Without pidfds its start time is compared before each use.
type Process struct {
	PID    int
	holder Holder
	closed chan struct{}
}

// Open takes hold of the process of a lock file. Error: it has ended.
func (h *Holder) Open() (*Process, error) {
	if !h.lives() {
		return nil, os.ErrProcessDone
	}
	return &Process{h.PID, *h, make(chan struct{})}, nil
}

// Signal is sent to this process. Error: os.ErrProcessDone, or the system's.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.holder.lives() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.PID, s)
}

// Wait returns when the process has ended, or the Process was closed. It is no child: nobody tells how.
func (p *Process) Wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.holder.lives() {
		select {
		case <-tick.C:
		case <-p.closed:
			return os.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close lets go of the process. Once.
func (p *Process) Close() { close(p.closed) }

// peer tells which process and user are at the other end of a Unix socket.
func peer(c *net.UnixConn) (pid int, uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Xucred
	var pidErr error
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		pid, pidErr = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	})
	if err := errors.Join(err, pidErr, ctlErr); err != nil {
		return 0, 0, err
	}
	return pid, cred.Uid, nil
}
