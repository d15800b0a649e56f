package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// startTime of a process in clock ticks since boot. A zombie does not live.
func startTime(pid int) (ticks uint64, alive bool) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	rest := string(content)[strings.LastIndexByte(string(content), ')')+1:] // the name before it may be anything
	f := strings.Fields(rest)                                               // from the third field on; the start time is the 22nd
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, false
	}
	ticks, err = strconv.ParseUint(f[19], 10, 64)
	return ticks, err == nil
}

// Process is one that somebody else has started, held so that its pid can't be mistaken.
type Process struct {
	PID int
	fd  *os.File // a pidfd
}

// Open takes hold of the process of a lock file. Error: it has ended.
func (h *Holder) Open() (*Process, error) {
	fd, err := unix.PidfdOpen(h.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pid %d: %w", h.PID, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // the runtime's poller takes it
		return nil, errors.Join(err, unix.Close(fd))
	}
	p := &Process{h.PID, os.NewFile(uintptr(fd), "pidfd")}
	if !h.lives() { // looked up after the pidfd was there
		p.Close()
		return nil, os.ErrProcessDone
	}
	return p, nil
}

// Signal is sent to this process and no other. Error: os.ErrProcessDone, or the system's.
func (p *Process) Signal(s syscall.Signal) (err error) {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), s, nil, 0) }); ctlErr != nil {
		return ctlErr
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Wait returns when the process has ended, or the Process was closed. It is no child: nobody tells how.
func (p *Process) Wait(context.Context) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // a descriptor
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// Close lets go of the process.
func (p *Process) Close() { _ = p.fd.Close() }

// peer tells which process and user are at the other end of a Unix socket.
func peer(c *net.UnixConn) (pid int, uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil || err != nil {
		return 0, 0, errors.Join(err, ctlErr)
	}
	return int(cred.Pid), cred.Uid, nil
}
