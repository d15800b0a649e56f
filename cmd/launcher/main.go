// The launcher starts and supervises one process per branch, and takes snapshots of the bank until
// it is stopped.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/branch"
	"cutbank/internal/controller"
	"cutbank/internal/journal"
	"cutbank/internal/lifecycle"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/rules"
	"cutbank/internal/supervise"
	"cutbank/internal/version"
)

const examples = `Opens or resumes a bank, starts and supervises its branches, and takes snapshots until Ctrl-C.

  ./launcher 4000 branches.txt                      4000 in the branches of the file
  ./launcher 4000 branches.txt --snapshots 5        stop after five snapshots
  ./launcher 4000 branches.txt --json | jq .total   snapshots as JSON
  ./launcher 4000 branches.txt --interval 0 --link-delay 0 --amount 1   as fast as it can
  ./launcher 4000 branches.txt --fresh              a new bank; the old one is moved aside
  ./launcher 4000 branches.txt --restore 10         a new bank that begins as snapshot 10
  ./launcher 4000 branches.txt --tls auto           links and controller by mutual TLS, certificates in the data directory
  ./launcher certs branches.txt DIR                 certificates for --tls DIR, made or renewed

Usage: ./launcher <total> <file> [flags]; the file has one "<name> <ip> <port>" per line.
Exit codes: 0 done or stopped, 1 failure, 2 usage, 3 the books do not balance, 4 branches not ready,
5 stopped while a branch was failed, 75 data directory in use.

`

// Defaults for people: slow enough that money is seen on its way.
const (
	defaultInterval  = 500 * time.Millisecond
	defaultLinkDelay = "50ms-250ms"
)

// exitFailedBranch is the exit code when a branch could not be kept running.
const exitFailedBranch = 5

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the launcher at once, and its branches with it
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "launcher:", err)
	}
	os.Exit(exitCode(err))
}

// failedError is a bank that was stopped while branches could not be kept running.
type failedError struct{ names []string }

func (e *failedError) Error() string {
	return fmt.Sprintf("branches that could not be kept running: %v", e.names)
}

func exitCode(err error) int {
	var held *lifecycle.HeldError
	var failed *failedError
	switch {
	case errors.As(err, &held):
		return lifecycle.ExitLocked
	case errors.As(err, &failed) && controller.ExitCode(err) == 1:
		return exitFailedBranch
	}
	return controller.ExitCode(err)
}

// options are the command line: the controller's, and the launcher's own.
type options struct {
	controller.Options
	linkDelay link.Delay
	sync      journal.Sync
	fresh     bool
	restore   uint64
	record    string // "", recordEvents or recordShiViz
	tlsDir    string // empty: plaintext
	out       *controller.Output
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 3 && args[0] == "certs" {
		return makeCertificates(args[1], args[2], stdout)
	}
	var o options
	if done, err := o.parse(args, stdout, stderr); done || err != nil {
		return err
	}
	out := o.NewOutput(stdout, stderr)
	o.out = out
	out.Say("launcher: %d in %d branches of %s, data in %s", o.Total, len(o.Roster.Branches), o.Roster.File, o.DataDir)
	unlock, err := o.takeDirectory(out)
	if err != nil {
		return err
	}
	defer func() { unlock() }()
	if err := o.certify(out); err != nil {
		return err
	}
	if err := o.checkPorts(ctx); err != nil {
		return err
	}
	out.Say("transfers at most %s apart, held %s to %s on their way, sync=%s; first snapshot after 1s, then every %s",
		*o.Settings.Interval, o.linkDelay.Min, o.linkDelay.Max, o.sync, o.SnapshotInterval)
	return o.Marked(o.runBank(ctx, out))
}

// runBank runs the branches and, as long as those run, the controller.
func (o *options) runBank(ctx context.Context, out *controller.Output) error {
	sockets, err := os.MkdirTemp("", "cutbank-")
	if err != nil {
		return fmt.Errorf("directory for sockets: %w", err)
	}
	defer func() { _ = os.RemoveAll(sockets) }()
	restarts, bank := newScore(), newLive(o)
	children, err := o.children()
	if err != nil {
		return err
	}
	s, err := supervise.New(supervise.Config{
		Children: children, Sockets: sockets, Logger: o.NewLogger("launcher", out),
		OnEvent: func(e supervise.Event) {
			if text := restarts.event(e); text != "" {
				out.Say("%s", text)
			}
			bank.process(e)
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.Logger = o.NewLogger("controller", out)
	o.OnEvent = func(e controller.Event) {
		if out.Event(e); out.Err() != nil {
			cancel() // nobody reads the results any more
		}
		bank.bank(e)
	}
	c, err := controller.New(o.Config)
	if err != nil {
		return err
	}
	bank.supervisor, bank.controller = s, c
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	if bank.events, err = newEvents(o, bank.began); err != nil {
		return err
	}
	followed := make(chan error, 1)
	go func() { followed <- bank.events.run(serving) }()
	served, err := bank.serve(serving, rand.Text())
	if err != nil {
		return err
	}
	// The branches outlive the controller: they are stopped when it has written its last snapshot.
	branches, stopBranches := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBranches()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(branches) }()
	err = c.Run(ctx)
	failed := failedBranches(s)
	stopBranches()
	err = errors.Join(err, <-stopped, out.Err(), failed)
	stopServing()
	err = errors.Join(err, served(), <-followed)
	out.Say("%s", restarts)
	return err
}

func failedBranches(s *supervise.Supervisor) error {
	var names []string
	for _, st := range s.Status() {
		if st.State == supervise.Failed {
			names = append(names, fmt.Sprintf("%s (%s)", st.Name, st.LastExit))
		}
	}
	if names == nil {
		return nil
	}
	return &failedError{names}
}

// parse reads the command line. Done tells that help or version was asked for and printed.
func (o *options) parse(args []string, stdout, stderr io.Writer) (done bool, err error) {
	fs := pflag.NewFlagSet("launcher", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(stderr)
	fs.Usage = func() {}
	o.Flags(fs)
	delay := fs.String("link-delay", defaultLinkDelay, "hold each transfer and marker on its way, in order; 0 = not at all")
	sync := fs.String("sync", journal.Always.String(), "always: money survives power loss; os: it survives kill -9")
	fs.BoolVar(&o.fresh, "fresh", false, "open a new bank; the data directory is moved aside")
	fs.StringVar(&o.record, "record", "", "keep every event in events.jsonl; --record=shiviz: also in shiviz.log, which ShiViz draws")
	fs.Lookup("record").NoOptDefVal = recordEvents
	fs.Uint64Var(&o.restore, "restore", 0, "open a new bank from this snapshot; the data directory is moved aside")
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprint(stdout, examples, fs.FlagUsages())
		return true, err
	} else if err != nil {
		return false, &controller.UsageError{Err: err}
	}
	if o.Version {
		_, err := fmt.Fprintln(stdout, "launcher", version.String())
		return true, err
	}
	if o.BrokenRule == "help" {
		_, err := fmt.Fprint(stdout, rules.Table())
		return true, err
	}
	if err := o.Parse(fs); err != nil {
		return false, err
	}
	if o.linkDelay, err = link.ParseDelay(*delay); err == nil {
		o.sync, err = journal.ParseSync(*sync)
	}
	if o.record != "" && o.record != recordEvents && o.record != recordShiViz {
		err = errors.Join(err, fmt.Errorf("--record=%s is not %s or %s", o.record, recordEvents, recordShiViz))
	}
	if err == nil && o.Settings.Amount != nil {
		_, err = branch.ParseAmount(*o.Settings.Amount)
	}
	if err != nil {
		return false, &controller.UsageError{Err: err}
	}
	if o.Settings.Interval == nil {
		interval := defaultInterval
		o.Settings.Interval = &interval
	}
	if err := o.UseDataDir(roster.DataDir(o.Roster.File, o.Total)); err != nil {
		return false, err
	}
	o.Remedy = "name that bank's total, file and --data-dir, or open a new bank here with --fresh (the old one is moved aside)"
	return false, nil
}
