package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/lifecycle"
	"cutbank/internal/supervise"
)

const lockFile = "launcher.lock"

// takeDirectory locks the data directory. With --fresh or --restore the one that is there is moved
// aside first, and never deleted.
func (o *options) takeDirectory(out *controller.Output) (unlock func(), err error) {
	unlock, err = lifecycle.Lock(o.DataDir, lockFile)
	if err != nil || (!o.fresh && o.restore == 0) {
		return unlock, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if o.restore != 0 {
		record, err := controller.ReadSnapshot(o.DataDir, o.restore)
		if err != nil {
			return nil, &controller.UsageError{Err: fmt.Errorf("--restore %d: %w", o.restore, err)}
		}
		plan, err := controller.RestorePlan(record)
		if err != nil {
			return nil, &controller.UsageError{Err: err}
		}
		o.Restore = &plan
	}
	aside, err := o.moveAside()
	if err != nil {
		return nil, err
	}
	out.Say("the bank that was in %s is kept in %s", o.DataDir, aside)
	unlock()
	return lifecycle.Lock(o.DataDir, lockFile)
}

// moveAside renames the data directory, once every branch's lock is held: nobody uses it.
func (o *options) moveAside() (string, error) {
	for _, b := range o.Roster.Branches {
		dir := filepath.Join(o.DataDir, b.Name)
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		release, err := lifecycle.Lock(dir, "lock")
		if err != nil {
			return "", err
		}
		defer release()
	}
	for n := 1; ; n++ {
		aside := o.DataDir + ".old-" + strconv.Itoa(n)
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		if err := os.Rename(o.DataDir, aside); err != nil {
			return "", fmt.Errorf("moving the old bank aside: %w", err)
		}
		return aside, nil
	}
}

// portPatience is how long the branches of a launcher that was killed may take to be gone.
const portPatience = 3 * time.Second

// checkPorts finds out before anything is started whether the branches can listen.
func (o *options) checkPorts(ctx context.Context) error {
	began := time.Now()
	for _, b := range o.Roster.Branches {
		for {
			l, err := lifecycle.Listen(b.Addr())
			if err == nil {
				_ = l.Close()
				break
			}
			switch inUse := errors.Is(err, syscall.EADDRINUSE); {
			case !inUse:
				return &controller.UsageError{Err: fmt.Errorf("%s:%d: %w", o.Roster.File, b.Line, err)}
			case time.Since(began) > portPatience:
				return &controller.UsageError{Err: fmt.Errorf("%w: stop it or edit %s line %d", err, o.Roster.File, b.Line)}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
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
			args = append(args, "--seed", strconv.FormatUint(o.Seed+uint64(i)+1, 10)) //nolint:gosec // an index
		}
		children = append(children, supervise.Child{
			Name: b.Name, Path: path, Args: args, Log: filepath.Join(o.DataDir, b.Name, "branch.log"),
		})
	}
	return children, nil
}

// score counts restarts by cause, and says what happens in words.
type score struct {
	mu      sync.Mutex
	causes  map[string]int
	longest time.Duration
}

func newScore() *score { return &score{causes: make(map[string]int)} }

// event notes an event and returns the line for people, or nothing.
func (s *score) event(e supervise.Event) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.State {
	case supervise.Backoff:
		s.causes[e.Exit]++
		return fmt.Sprintf("%s ended (pid %d, %s): starting it again in %s", e.Child, e.PID, e.Exit, e.Delay.Round(time.Millisecond))
	case supervise.Failed:
		s.causes[e.Exit]++
		return fmt.Sprintf("%s failed: %s; trying again every %s", e.Child, e.Exit, e.Delay)
	case supervise.Ready:
		if e.Down > 0 {
			s.longest = max(s.longest, e.Down)
			return fmt.Sprintf("%s is back after %s (pid %d)", e.Child, e.Down.Round(time.Millisecond), e.PID)
		}
	case supervise.Suspect:
		return fmt.Sprintf("%s (pid %d) does not answer", e.Child, e.PID)
	case supervise.Starting, supervise.Running, supervise.Stopping, supervise.Stopped:
	}
	return ""
}

// String is the summary.
func (s *score) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.causes) == 0 {
		return "restarts: none"
	}
	var parts []string
	for cause, n := range s.causes {
		parts = append(parts, fmt.Sprintf("%d × %s", n, cause))
	}
	sort.Strings(parts)
	return fmt.Sprintf("restarts: %s; longest recovery %s", strings.Join(parts, ", "), s.longest.Round(time.Millisecond))
}
