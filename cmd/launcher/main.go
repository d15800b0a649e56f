// The launcher starts and supervises one process per branch, and takes snapshots of the bank until
// it is stopped.
package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/foreign"
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
  ./launcher 4000 branches.txt --chaos 2s           with kills, hangs and cut links all the time
  ./launcher 4000 branches.txt --detach             Ctrl-C ends the launcher alone
  ./launcher 4000 branches.txt --tls auto           links and controller by mutual TLS, certificates in the data directory
  ./launcher certs branches.txt DIR                 certificates for --tls DIR, made or renewed
  ./launcher 4000 branches.txt --record             every event in events.jsonl, with vector clocks
  ./launcher --replay data/branches.txt-4000/events.jsonl   the page of a recorded run, with a slider
  ./launcher show 10                                a snapshot as text, with the cut
  ./launcher 4000 branches.txt --branch-cmd 'python3 mybranch.py {name} {port}' --snapshots 5
                                                    somebody else's branches, held against the assignment

Usage: ./launcher <total> <file> [flags]; the file has one "<name> <ip> <port>" per line.
Exit codes: 0 done or stopped, 1 failure, 2 usage, 3 the books do not balance (with --branch-cmd: a rule
of the assignment is broken), 4 branches not ready, 5 stopped while a branch was failed, 6 with --branch-cmd:
too little was seen to say that all rules are kept, 75 data directory in use.

`

// Defaults for people: slow enough that money is seen on its way.
const (
	defaultInterval  = 500 * time.Millisecond
	defaultLinkDelay = "50ms-250ms"
)

// exitNotReady is the exit code when branches are not ready in time.
const exitNotReady = 4

// exitFailedBranch is the exit code when a branch could not be kept running.
const exitFailedBranch = 5

// sameCtrlC is how long signals count as the same Ctrl-C: wrappers such as timeout(1) signal the process
// and then its group.
const sameCtrlC = 200 * time.Millisecond

func main() {
	ctx, stop := context.WithCancel(context.Background())
	force, kill := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		stop() // in order
		for again := time.Now().Add(sameCtrlC); ; {
			if <-signals; time.Now().After(again) {
				break
			}
		}
		signal.Stop(signals) // a third one ends the launcher itself
		kill()
	}()
	err := run(ctx, force, os.Args[1:], os.Stdout, os.Stderr)
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
	var broken *brokenError
	var unseen *notSeenError
	var unopened *foreign.WaitError
	switch {
	case errors.As(err, &held):
		return lifecycle.ExitLocked
	case errors.As(err, &broken):
		return exitBroken
	case errors.As(err, &unseen):
		return exitNotSeen
	case errors.As(err, &unopened):
		return exitNotReady
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
	syncDelay time.Duration
	fresh     bool
	restore   uint64
	record    string // "", recordEvents or recordShiViz
	replay    string // a record that is shown; empty: a bank is run
	shared    string // whom the dashboard is open to: "" (its user), dashboard.SharedMetrics or SharedAll
	tlsDir    string // empty: plaintext
	detach    bool
	alone     bool        // --no-controller: another launcher's serves this bank
	down      atomic.Bool // "./launcher down" was asked for
	chaos     time.Duration
	remote    map[string]bool // branches that are not this machine's
	force     context.Context // ended by the second Ctrl-C
	foreign   foreignOptions
	out       *controller.Output
}

func run(ctx, force context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 3 && args[0] == "certs" {
		return makeCertificates(args[1], args[2], stdout)
	}
	if len(args) > 0 && args[0] == "show" {
		return runShow(ctx, args[1:], stdout)
	}
	if len(args) > 0 {
		if _, ok := commands()[args[0]]; ok {
			return runCommand(ctx, args, stdout, stderr)
		}
	}
	o := options{force: force}
	if done, err := o.parse(args, stdout, stderr); done || err != nil {
		return err
	}
	out := o.NewOutput(stdout, stderr)
	defer out.End()
	o.out = out
	if o.replay != "" {
		return o.runReplay(ctx)
	}
	// A reader that is gone, or a limit on files, is an error of the write, and no end that leaves branches behind.
	// Notify, not Ignore: what is ignored here would be by other people's branches too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGXFSZ)
	if len(o.foreign.commands) > 0 {
		return o.runForeign(ctx, out, stdout)
	}
	out.Say("launcher: %d in %d branches of %s, data in %s", o.Total, len(o.Roster.Branches), o.Roster.File, o.DataDir)
	unlock, err := o.takeDirectory(out)
	if err != nil {
		return err
	}
	defer func() { unlock() }()
	if err := o.certify(out); err != nil {
		return err
	}
	snapshots := fmt.Sprintf("first snapshot after 1s, then every %s", o.SnapshotInterval)
	if o.alone {
		snapshots = "no controller here: another launcher of this roster has it"
	}
	out.Say("%s, sync=%s; %s", pace(*o.Settings.Interval, o.linkDelay), o.sync, snapshots)
	return o.Marked(o.runBank(ctx, out))
}

// pace says how fast a bank pays.
func pace(interval time.Duration, held link.Delay) string {
	text := "transfers as fast as they can"
	if interval > 0 {
		text = fmt.Sprintf("transfers at most %s apart", interval)
	}
	if held.Max > 0 {
		text += fmt.Sprintf(", held %s to %s on their way", held.Min, held.Max)
	}
	return text
}

// runBank runs the branches and, as long as those run, the controller.
func (o *options) runBank(ctx context.Context, out *controller.Output) error {
	restarts, bank := newScore(), newLive(o)
	children, err := o.children()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, closeControl, err := o.supervisor(children, cancel, func(e supervise.Event) {
		if text := restarts.event(e, o.Verbose); text != "" {
			out.Say("%s", text)
		}
		bank.process(e)
	})
	if err != nil {
		return err
	}
	defer closeControl()
	o.Logger, o.StopTransfers = o.NewLogger("controller", out), !o.detach
	ready := make(chan struct{})
	o.OnEvent = func(e controller.Event) {
		if w, ok := e.(controller.Waiting); ok {
			e = explain(w, s.Status())
		}
		if out.Event(e); out.Err() != nil {
			cancel() // nobody reads the results any more
		}
		bank.bank(e)
		if _, ok := e.(controller.Ready); ok {
			close(ready)
		}
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
	served, err := bank.serve(serving, crand.Text())
	if err != nil {
		return err
	}
	// The branches outlive the controller: they are stopped when it has written its last snapshot.
	branches, stopBranches := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBranches()
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.Run(branches) }()
	forced := context.AfterFunc(o.force, s.KillAll)
	struck := o.strike(ctx, ready, s, c)
	err = bank.run(ctx)
	struck()
	failed := failedBranches(s)
	if o.detach && !o.down.Load() {
		s.Leave()
		out.Say("the branches run on: the same command adopts them again, ./launcher down stops them")
	}
	stopBranches()
	<-stopped
	err = errors.Join(err, out.Err(), failed)
	if !forced() {
		err = errors.Join(err, errors.New("stopped by force: the branches were killed, and go on from their journals"))
	}
	stopServing()
	err = errors.Join(err, served(), <-followed)
	out.Say("%s", restarts)
	return err
}

// supervisor makes the supervisor of the branches, and answers the subcommands.
func (o *options) supervisor(children []supervise.Child, cancel func(), onEvent func(supervise.Event)) (*supervise.Supervisor, func(), error) {
	sockets, err := lifecycle.SocketDir(o.DataDir, true)
	if err != nil {
		return nil, nil, err
	}
	s, err := supervise.New(supervise.Config{
		Children: children, Sockets: sockets, StateFile: filepath.Join(o.DataDir, "launcher.json"),
		Logger: o.NewLogger("launcher", o.out), OnEvent: onEvent,
	})
	if err != nil {
		return nil, nil, err
	}
	down := func() {
		o.down.Store(true)
		cancel()
	}
	c, err := serveControl(sockets, o.answer(s, down))
	if err != nil {
		return nil, nil, err
	}
	return s, c.close, nil
}

// strike lets chaos loose once the bank is ready. The returned function waits for its end and keeps score.
func (o *options) strike(ctx context.Context, ready <-chan struct{}, s *supervise.Supervisor, c *controller.Controller) func() {
	if o.chaos == 0 {
		return func() {}
	}
	seed := o.Seed
	if seed == 0 {
		seed = rand.Uint64() //nolint:gosec // whom to strike
	}
	o.out.Say("chaos: a blow every %s on average, choices of seed %d", o.chaos, seed)
	ch := newChaos(o.chaos, seed)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ready:
			ch.run(ctx, s, c.Cut, o.out.Say)
		case <-ctx.Done():
		}
	}()
	return func() {
		cancel()
		<-done
		o.out.Say("%s", ch)
	}
}

func failedBranches(s *supervise.Supervisor) error {
	var names []string
	for _, st := range s.Status() {
		if st.Failed {
			names = append(names, fmt.Sprintf("%s (%s)", st.Name, st.LastExit))
		}
	}
	if names == nil {
		return nil
	}
	return &failedError{names}
}

// flags adds those of the launcher to a set. Two are read when all have been parsed.
func (o *options) flags(fs *pflag.FlagSet) (delay, sync *string) {
	o.Flags(fs)
	fs.StringVar(&o.shared, "http-shared", "", "all users of this machine may open the dashboard, not its own user and root alone; --http-shared=metrics: may read its /metrics (default: nobody else)")
	fs.Lookup("http-shared").NoOptDefVal = dashboard.SharedAll
	delay = fs.String("link-delay", defaultLinkDelay, "hold each transfer and marker on its way, in order; 0 = not at all")
	sync = fs.String("sync", journal.Always.String(), "always: money survives power loss; os: it survives kill -9")
	fs.DurationVar(&o.syncDelay, "sync-delay", 0, "added to each sync, to act as a slower disk (default 0s)")
	fs.BoolVar(&o.fresh, "fresh", false, "open a new bank; the data directory is moved aside")
	fs.StringVar(&o.record, "record", "", "keep every event in events.jsonl; --record=shiviz: also in shiviz.log, which ShiViz draws (default: no record)")
	fs.Lookup("record").NoOptDefVal = recordEvents
	fs.StringVar(&o.replay, "replay", "", "show the page of a bank that has been recorded, from its events.jsonl, with a slider for the time; nothing else is started (default: a bank is run)")
	fs.Uint64Var(&o.restore, "restore", 0, "open a new bank from this snapshot, a number; the data directory is moved aside (default: resume)")
	fs.BoolVar(&o.detach, "detach", false, "leave the branches running when the launcher ends (./launcher down stops them)")
	fs.DurationVar(&o.chaos, "chaos", 0, "kill, stop or cut off a random branch so often on average, and keep score (default: never)")
	fs.BoolVar(&o.alone, "no-controller", false, "only supervise this machine's branches: the launcher of another host runs the controller (no dashboard here)")
	o.foreign.flags(fs)
	return delay, sync
}

// parse reads the command line. Done tells that help or version was asked for and printed.
func (o *options) parse(args []string, stdout, stderr io.Writer) (done bool, err error) {
	fs := pflag.NewFlagSet("launcher", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(stderr)
	fs.Usage = func() {}
	delay, sync := o.flags(fs)
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprint(stdout, examples, fs.FlagUsages(), "\n", commandHelp)
		return true, err
	} else if err != nil {
		return false, &controller.UsageError{Err: err}
	}
	for _, name := range []string{"snapshots", "duration", "restore", "json", "chaos", "record"} {
		if o.alone && fs.Changed(name) {
			return false, &controller.UsageError{Err: fmt.Errorf("--%s is for the launcher that has the controller, not with --no-controller", name)}
		}
	}
	if o.alone {
		o.HTTP = ""
	}
	if o.Version {
		_, err := fmt.Fprintln(stdout, "launcher", version.String())
		return true, err
	}
	if o.BrokenRule == "help" {
		_, err := fmt.Fprint(stdout, rules.Table())
		return true, err
	}
	if o.replay == "" {
		err = o.Parse(fs)
	} else if err = o.parseReplay(fs); err != nil {
		err = &controller.UsageError{Err: err}
	}
	if err != nil {
		return false, err
	}
	if o.linkDelay, err = link.ParseDelay(*delay); err == nil {
		o.sync, err = journal.ParseSync(*sync)
	}
	if o.record != "" && o.record != recordEvents && o.record != recordShiViz {
		err = errors.Join(err, fmt.Errorf("--record=%s is not %s or %s", o.record, recordEvents, recordShiViz))
	}
	if o.shared != "" && o.shared != dashboard.SharedAll && o.shared != dashboard.SharedMetrics {
		err = errors.Join(err, fmt.Errorf("--http-shared=%s is not %s or %s", o.shared, dashboard.SharedAll, dashboard.SharedMetrics))
	}
	if err != nil {
		return false, &controller.UsageError{Err: err}
	}
	if o.foreign.on(fs) {
		return false, o.parseForeign(fs)
	}
	if o.Settings.Interval == nil {
		interval := defaultInterval
		o.Settings.Interval = &interval
	}
	if o.replay != "" {
		return false, nil
	}
	if err := o.UseDataDir(roster.DataDir(o.Roster.File, o.Total)); err != nil {
		return false, err
	}
	o.Remedy = "name that bank's total, file and --data-dir, or open a new bank here with --fresh (the old one is moved aside)"
	return false, nil
}
