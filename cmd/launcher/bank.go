package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"cutbank/internal/controller"
	"cutbank/internal/lifecycle"
	"cutbank/internal/roster"
	"cutbank/internal/supervise"
)

const lockFile = "launcher.lock"

// takeDirectory locks the data directory. With --fresh or --restore the one that is there is moved
// aside first, and never deleted, but only when nothing else keeps the bank from running.
func (o *options) takeDirectory(out *controller.Output) (unlock func(), err error) {
	unlock, err = lifecycle.Lock(o.DataDir, lockFile)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{o.checkFiles, o.checkPorts, o.readRestore} {
		if err := step(); err != nil {
			unlock()
			return nil, err
		}
	}
	if !o.fresh && o.restore == 0 {
		return unlock, nil
	}
	aside, err := o.moveAside()
	if err != nil {
		unlock()
		return nil, err
	}
	if aside == "" {
		return unlock, nil
	}
	out.Say("the bank that was in %s is kept in %s", o.DataDir, aside)
	unlock()
	return lifecycle.Lock(o.DataDir, lockFile)
}

// readRestore makes the plan of --restore.
func (o *options) readRestore() error {
	if o.restore == 0 {
		return nil
	}
	record, err := controller.ReadSnapshot(o.DataDir, o.restore)
	if err != nil {
		return &controller.UsageError{Err: fmt.Errorf("--restore %d: %w", o.restore, err)}
	}
	plan, err := controller.RestorePlan(record)
	if err != nil {
		return &controller.UsageError{Err: err}
	}
	o.Restore = &plan
	return nil
}

// moveAside renames the data directory, once every branch's lock is held: nobody uses it. The locks do not
// go along: they name this process, and what is aside would pass for a bank that runs. An empty directory
// stays: "".
func (o *options) moveAside() (string, error) {
	if entries, err := os.ReadDir(o.DataDir); err != nil || len(entries) == 1 { // its lock
		return "", err
	}
	locks := []string{lockFile}
	for _, b := range o.Roster.Branches {
		dir := filepath.Join(o.DataDir, b.Name)
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		release, err := lifecycle.Lock(dir, lifecycle.LockFile)
		if err != nil {
			return "", err
		}
		defer release()
		locks = append(locks, filepath.Join(b.Name, lifecycle.LockFile))
	}
	for n := 1; ; n++ {
		aside := o.DataDir + ".old-" + strconv.Itoa(n)
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		if err := os.Rename(o.DataDir, aside); err != nil {
			return "", fmt.Errorf("moving the old bank aside: %w", err)
		}
		for _, lock := range locks {
			_ = os.Remove(filepath.Join(aside, lock)) // a lock that stays misleads, no more
		}
		return aside, nil
	}
}

// holder is the process that has a branch's directory, nil when none lives.
func (o *options) holder(b roster.Branch) *lifecycle.Holder {
	return lifecycle.ReadHolder(filepath.Join(o.DataDir, b.Name), lifecycle.LockFile)
}

// filesPerBranch is what the launcher holds open for each: connections, pipes, its log.
const filesPerBranch = 10

// checkFiles finds out whether so many branches can be held. Go has raised the limit to the hard one.
func (o *options) checkFiles() error {
	var limit syscall.Rlimit
	need := uint64(len(o.Roster.Branches)*filesPerBranch + 64)
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < need {
		return &controller.UsageError{Err: fmt.Errorf("%d branches need some %d open files and %d are allowed: raise the limit (ulimit -Hn %d, as root, or LimitNOFILE= of a unit)",
			len(o.Roster.Branches), need, limit.Cur, need)}
	}
	return nil
}

// checkPorts finds out before anything is started whether the branches can listen; those that run
// already do. Addresses that are not this machine's make their branches remote.
func (o *options) checkPorts() error {
	o.remote = make(map[string]bool)
	for _, b := range o.Roster.Branches {
		l, err := lifecycle.Listen(net.JoinHostPort(b.Host, "0"))
		if dns := (*net.DNSError)(nil); errors.Is(err, syscall.EADDRNOTAVAIL) || errors.As(err, &dns) {
			o.remote[b.Name] = true
			continue
		}
		if err == nil {
			_ = l.Close()
			if o.holder(b) != nil {
				continue
			}
			l, err = lifecycle.Listen(b.Addr())
		}
		switch {
		case err == nil:
			_ = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			return &controller.UsageError{Err: fmt.Errorf("%w: stop it or edit %s line %d", err, o.Roster.File, b.Line)}
		default:
			return &controller.UsageError{Err: fmt.Errorf("%s:%d: %w", o.Roster.File, b.Line, err)}
		}
	}
	return nil
}

// children are the branches' processes: the program beside this one.
func (o *options) children() ([]supervise.Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the branch program: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "branch")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("the branch program is not beside the launcher: %w", err)
	}
	children := make([]supervise.Child, 0, len(o.Roster.Branches))
	for i, b := range o.Roster.Branches {
		args := []string{
			b.Name, strconv.Itoa(int(b.Port)), "--listen", b.Host, "--data-dir", o.DataDir,
			"--interval", o.Settings.Interval.String(), "--sync", o.sync.String(), "--log-level", o.LogLevel,
			"--link-delay", o.linkDelay.Min.String() + "-" + o.linkDelay.Max.String(),
			"--sync-delay", o.syncDelay.String(),
		}
		if o.BrokenRule != "" {
			args = append(args, "--break", o.BrokenRule)
		}
		if o.tlsDir != "" {
			args = append(args, "--tls", o.tlsDir)
		} else if o.Insecure {
			args = append(args, "--insecure")
		}
		if o.Settings.Amount != nil {
			args = append(args, "--amount", *o.Settings.Amount)
		}
		if o.Seed != 0 {
			args = append(args, "--seed", strconv.FormatUint(o.Seed+uint64(i)+1, 10))
		}
		children = append(children, supervise.Child{
			Name: b.Name, Path: path, Args: args, Dir: filepath.Join(o.DataDir, b.Name),
			Log: filepath.Join(o.DataDir, b.Name, "branch.log"), Addr: b.Addr(), Remote: o.remote[b.Name],
		})
	}
	return children, nil
}
