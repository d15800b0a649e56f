package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/lifecycle"
	"cutbank/internal/roster"
	"cutbank/internal/supervise"
)

const commandHelp = `Asks the launcher that runs on a data directory.

  ./launcher status                 the branches: state, pid, uptime, restarts, why (--json)
  ./launcher kill NAME              kill -9; the branch is started again
  ./launcher pause NAME             stop its process until it is resumed
  ./launcher resume NAME
  ./launcher restart NAME           end it in order and start it again
  ./launcher reset NAME             forget its failures, try again at once
  ./launcher down                   stop the launcher and all branches; also branches left by --detach

Usage: ./launcher COMMAND [NAME] [<total> <file>] [flags]; without <total> <file> or --data-dir it is the
only bank that runs under data/.

`

// commands, and whether each takes a branch's name.
func commands() map[string]bool {
	return map[string]bool{"status": false, "down": false, "kill": true, "pause": true, "resume": true, "restart": true, "reset": true}
}

// command is a subcommand as it was written.
type command struct {
	request
	dataDir string
	json    bool
}

func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, help, err := parseCommand(args)
	if help != "" {
		_, err = fmt.Fprint(stdout, help)
	}
	if help != "" || err != nil {
		return err
	}
	if err := c.findDir(); err != nil {
		return err
	}
	if launcher := lifecycle.ReadHolder(c.dataDir, lockFile); launcher != nil {
		a, nc, err := ask(c.dataDir, c.request)
		if nc != nil {
			defer func() { _ = nc.Close() }()
		}
		switch {
		case err != nil:
			return fmt.Errorf("launcher of %s, pid %d: %w", c.dataDir, launcher.PID, err)
		case c.Command == "status":
			return c.print(stdout, a.Status)
		case c.Command == "down":
			defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
			_, _ = io.Copy(io.Discard, nc) // until the launcher has ended
		}
		return nil
	}
	alone := living(c.dataDir)
	switch c.Command {
	case "status":
		if err := c.print(stdout, orphans(c.dataDir, alone)); err != nil {
			return err
		}
		fmt.Fprintf(stderr, "no launcher runs on %s; %d branches live on without one\n", c.dataDir, len(alone))
		return nil
	case "down":
		return stopAlone(c.dataDir, alone, stderr)
	}
	return &controller.UsageError{Err: fmt.Errorf("no launcher runs on %s: start it first", c.dataDir)}
}

func parseCommand(args []string) (c command, help string, err error) {
	fs := pflag.NewFlagSet("launcher", pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.StringVar(&c.dataDir, "data-dir", "", "of the launcher (default: see above)")
	fs.BoolVar(&c.json, "json", false, "status as JSON")
	usage := func(format string, args ...any) error {
		return &controller.UsageError{Err: fmt.Errorf(format, args...)}
	}
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return c, commandHelp + fs.FlagUsages(), nil
	} else if err != nil {
		return c, "", usage("%w", err)
	}
	rest := fs.Args()
	c.Command, rest = rest[0], rest[1:]
	if commands()[c.Command] {
		if len(rest) == 0 {
			return c, "", usage("%s what? ./launcher %s NAME", c.Command, c.Command)
		}
		c.Branch, rest = rest[0], rest[1:]
	}
	switch {
	case len(rest) == 2 && c.dataDir == "":
		total, err := roster.ParseTotal(rest[0], roster.MinBranches)
		if err != nil {
			return c, "", usage("%w", err)
		}
		c.dataDir = roster.DataDir(rest[1], total)
	case len(rest) > 0:
		return c, "", usage("%d arguments too many: see ./launcher %s --help", len(rest), c.Command)
	}
	return c, "", nil
}

// findDir is the only bank under data/ that runs, unless one was named.
func (c *command) findDir() error {
	if c.dataDir != "" {
		return nil
	}
	locks, _ := filepath.Glob(filepath.Join("data", "*", lockFile))
	var running, alone []string
	for _, lock := range locks {
		dir := filepath.Dir(lock)
		if lifecycle.ReadHolder(dir, lockFile) != nil {
			running = append(running, dir)
		} else if len(living(dir)) > 0 {
			alone = append(alone, dir)
		}
	}
	found := append(running, alone...) //nolint:gocritic // running ones first
	if len(found) > 1 {
		return &controller.UsageError{Err: fmt.Errorf("several banks run: %s; name one with --data-dir", strings.Join(found, ", "))}
	}
	if len(found) == 0 {
		return &controller.UsageError{Err: errors.New("no bank runs under data/: name its directory with --data-dir")}
	}
	c.dataDir = found[0]
	return nil
}

// living are the branches of a data directory that some launcher has started, by name.
func living(dataDir string) map[string]*lifecycle.Holder {
	all := make(map[string]*lifecycle.Holder)
	locks, _ := filepath.Glob(filepath.Join(dataDir, "*", lifecycle.LockFile))
	for _, lock := range locks {
		if h := lifecycle.ReadHolder(filepath.Dir(lock), lifecycle.LockFile); h != nil && h.Sockets != "" {
			all[filepath.Base(filepath.Dir(lock))] = h
		}
	}
	return all
}

// orphans are branches without a launcher, as a report.
func orphans(dataDir string, alone map[string]*lifecycle.Holder) *report {
	dir, _ := filepath.Abs(dataDir)
	r := &report{Schema: statusSchema, DataDir: dir, Branches: []supervise.Status{}}
	for _, name := range slices.Sorted(maps.Keys(alone)) {
		r.Branches = append(r.Branches, supervise.Status{Name: name, State: "detached", PID: alone[name].PID})
	}
	return r
}

// print shows a report as a table, or as JSON.
func (c *command) print(w io.Writer, r *report) error {
	if c.json {
		return json.NewEncoder(w).Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BRANCH\tSTATE\tPID\tREADY\tUPTIME\tRESTARTS\tWHY")
	dash := func(s string, empty bool) string {
		if empty {
			return "-"
		}
		return s
	}
	for _, b := range r.Branches {
		ready := map[bool]string{true: "yes", false: "no"}[b.State == supervise.Ready || b.State == supervise.Remote]
		state := string(b.State)
		if b.Paused && b.State != supervise.Paused {
			state += " (paused)"
		}
		var causes []string
		for _, cause := range slices.Sorted(maps.Keys(b.Causes)) {
			causes = append(causes, fmt.Sprintf("%d %s", b.Causes[cause], cause))
		}
		restarts := fmt.Sprint(b.Restarts)
		if causes != nil {
			restarts += " (" + strings.Join(causes, ", ") + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.Name, state, dash(fmt.Sprint(b.PID), b.PID == 0), ready,
			dash(time.Since(b.Started).Round(time.Second).String(), b.Started.IsZero()), restarts, dash(b.Why(), b.Why() == ""))
	}
	return t.Flush()
}

// stopAlone stops branches that have no launcher, as one would.
func stopAlone(dataDir string, alone map[string]*lifecycle.Holder, stderr io.Writer) error {
	unlock, err := lifecycle.Lock(dataDir, lockFile) // and none is started meanwhile
	if err != nil {
		return err
	}
	defer unlock()
	if len(alone) == 0 {
		fmt.Fprintf(stderr, "nothing runs on %s\n", dataDir)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), supervise.DefaultStop)
	defer cancel()
	var wg sync.WaitGroup
	for name, h := range alone {
		p, err := h.Open()
		if err != nil {
			continue // it has just ended
		}
		wg.Go(func() {
			defer p.Close()
			_, _ = p.Signal(syscall.SIGTERM), p.Signal(syscall.SIGCONT)
			late := context.AfterFunc(ctx, func() {
				fmt.Fprintf(stderr, "%s (pid %d) does not end when asked to: killing it\n", name, h.PID)
				_ = p.Signal(syscall.SIGKILL)
			})
			_ = p.Wait(context.Background())
			late()
		})
	}
	wg.Wait()
	if sockets, err := lifecycle.SocketDir(dataDir, false); err == nil {
		supervise.Sweep(sockets, nil)
	}
	fmt.Fprintf(stderr, "stopped %d branches of %s\n", len(alone), dataDir)
	return nil
}
