package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/foreign"
	"cutbank/internal/judge"
	"cutbank/internal/lifecycle"
	"cutbank/internal/roster"
)

// exitBroken is the exit code when somebody's branches break a rule.
const exitBroken = 3

// exitNotSeen is the exit code when none is broken, and too little was seen to say that all are kept.
const exitNotSeen = 6

const reportFile = "report.json"

// brokenError is a report with broken rules.
type brokenError struct{ names []string }

func (e *brokenError) Error() string { return "rules broken: " + strings.Join(e.names, ", ") }

// notSeenError is a report without broken rules that does not show that all are kept.
type notSeenError struct{ names []string }

func (e *notSeenError) Error() string {
	return "no rule is broken, but too little was seen of " + strings.Join(e.names, ", ") +
		": the report says why (more --snapshots, a shorter --interval, a longer --link-delay show more)"
}

// foreignOptions are the flags for other people's branches.
type foreignOptions struct {
	texts    []string
	commands [][]string
	wait     time.Duration
	restart  string
}

func (f *foreignOptions) flags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.texts, "branch-cmd", nil, "run this command for each branch, with {name}, {port}, {ip}, {interval} (ms) filled in, and report "+
		"which rules of the assignment it keeps; NAME=COMMAND for one branch of a mixed bank (default: cutbank's own)")
	fs.DurationVar(&f.wait, "snapshot-wait", foreign.DefaultSnapshotWait, "with --branch-cmd: from InitSnapshot to RetrieveSnapshot")
	fs.StringVar(&f.restart, "restart", "never", "with --branch-cmd: never, or on-failure: a branch that ended is started and opened again, and --chaos kills too; without it, it only pauses")
}

func (f *foreignOptions) on(fs *pflag.FlagSet) bool {
	return fs.Changed("branch-cmd") || fs.Changed("snapshot-wait") || fs.Changed("restart")
}

// parseForeign checks what the flags mean for other people's branches. Errors are *UsageError.
func (o *options) parseForeign(fs *pflag.FlagSet) error {
	usage := func(format string, args ...any) error {
		return &controller.UsageError{Err: fmt.Errorf(format, args...)}
	}
	f := &o.foreign
	if len(f.texts) == 0 {
		return usage("--snapshot-wait and --restart need --branch-cmd")
	}
	for _, name := range []string{"amount", "sync", "fresh", "restore", "break", "tls", "record", "detach", "no-controller"} {
		if fs.Changed(name) {
			return usage("--%s is for cutbank's own branches: it has no meaning with --branch-cmd", name)
		}
	}
	switch {
	case f.restart != "never" && f.restart != "on-failure":
		return usage("--restart %q is neither never nor on-failure", f.restart)
	case f.wait < 0 || o.chaos < 0:
		return usage("--snapshot-wait and --chaos can't be negative")
	}
	if !fs.Changed("snapshot-interval") {
		o.SnapshotInterval = f.wait + time.Second // one after another
	}
	interval := defaultInterval
	if o.Settings.Interval != nil {
		interval = *o.Settings.Interval
	}
	var err error
	if f.commands, err = foreign.Commands(o.Roster, f.texts, interval); err != nil {
		return &controller.UsageError{Err: err}
	}
	if o.DataDir == "" {
		own := roster.DataDir(o.Roster.File, o.Total)
		o.DataDir = filepath.Join(filepath.Dir(own), "foreign-"+filepath.Base(own))
	}
	return nil
}

// runForeign runs somebody else's bank and reports.
func (o *options) runForeign(ctx context.Context, out *controller.Output, stdout io.Writer) error {
	out.Say("launcher: %d in %d branches of %s, each %s; their output in %s", o.Total, len(o.Roster.Branches), o.Roster.File,
		strings.Join(o.foreign.texts, ", "), filepath.Join(o.DataDir, "<name>.log"))
	unlock, err := lifecycle.Lock(o.DataDir, lockFile)
	if err != nil {
		return err
	}
	defer unlock()
	if err := o.checkPorts(); err != nil {
		return err
	}
	if len(o.remote) > 0 {
		return &controller.UsageError{Err: fmt.Errorf("%s names other machines: --branch-cmd runs all branches on this one", o.Roster.File)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	report, err := foreign.Run(ctx, foreign.Config{
		Roster: o.Roster, Total: o.Total, Commands: o.foreign.commands, Dir: o.DataDir, Delay: o.linkDelay,
		Restart: o.foreign.restart == "on-failure", Wait: o.Wait, SnapshotWait: o.foreign.wait, SnapshotInterval: o.SnapshotInterval,
		Snapshots: o.Snapshots, Duration: o.Duration, Seed: o.Seed, Chaos: o.chaos, Say: out.Say,
		OnSnapshot: func(s foreign.Snapshot) {
			if o.show(out, s); out.Err() != nil {
				cancel() // nobody reads the results any more
			}
		},
	})
	text, jsonErr := json.Marshal(report)
	if jsonErr == nil {
		jsonErr = lifecycle.WriteFile(filepath.Join(o.DataDir, reportFile), append(text, '\n'))
	}
	err = errors.Join(err, jsonErr, out.Err())
	if o.JSON {
		fmt.Fprintf(stdout, "%s\n", text)
	}
	if report.Snapshots > 0 || report.Verdict == judge.Broken || err == nil {
		fmt.Fprintf(out, "\n%s", report)
	}
	switch {
	case report.Verdict == judge.Broken:
		err = errors.Join(err, &brokenError{report.Broken()})
	case report.Verdict == judge.NotSeen && err == nil:
		err = &notSeenError{report.NotSeen()}
	}
	return err
}

// show prints a snapshot as those of cutbank's own branches are; one whose channel states can't be told
// apart has no block.
func (o *options) show(out *controller.Output, s foreign.Snapshot) {
	r := controller.NewPlainRecord(s.ID, o.Total, o.Roster.Names(), s.Parts)
	r.Initiator, r.DurationMS = s.Initiator, float64(s.Took.Microseconds())/1000
	r.StartedAt = s.Started.UTC().Format(time.RFC3339Nano)
	switch {
	case r.Status == controller.Incomplete:
		out.Event(controller.SnapshotIncomplete{Record: r, Reason: "not within the time"})
	case len(r.Differences) > 0 && r.Differences[0].Branch != "" && !o.JSON:
		out.Say("%s  (%s)", r.Line(), r.Differences[0])
	default:
		out.Event(controller.SnapshotComplete{Record: r})
	}
}
