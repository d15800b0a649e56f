// The controller opens or resumes a bank whose branches run elsewhere, and takes snapshots of it
// until it is stopped.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/roster"
	"cutbank/internal/rules"
	"cutbank/internal/version"
)

const examples = `Opens or resumes a bank whose branches are running, and takes snapshots of it until Ctrl-C.

  ./controller 4000 branches.txt                      4000 in the branches of the file
  ./controller 4000 branches.txt --snapshots 5        stop after five snapshots
  ./controller 4000 branches.txt --json | jq .total   snapshots as JSON

Usage: ./controller <total> <file> [flags]; the file has one "<name> <ip> <port>" per line.
The branches are started by hand (./branch branch1 9001); ./launcher starts and watches them too.
Exit codes: 0 done or stopped, 1 failure, 2 usage, 3 the books do not balance, 4 branches not ready.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
	}
	os.Exit(controller.ExitCode(err))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o controller.Options
	fs := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(stderr)
	fs.Usage = func() {}
	o.Flags(fs)
	fresh := fs.Bool("fresh", false, "of ./launcher only: a controller can't empty branches that are running")
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprint(stdout, examples, fs.FlagUsages())
		return err
	} else if err != nil {
		return &controller.UsageError{Err: err}
	}
	if o.Version {
		_, err := fmt.Fprintln(stdout, "controller", version.String())
		return err
	}
	if o.BrokenRule == "help" {
		_, err := fmt.Fprint(stdout, rules.Table())
		return err
	}
	if *fresh {
		return &controller.UsageError{Err: errors.New("--fresh: a controller can't empty branches that are running: " +
			"stop them and start them with new data directories, or use ./launcher --fresh")}
	}
	if err := o.Parse(fs); err != nil {
		return err
	}
	if err := o.UseDataDir(roster.ControllerDataDir(o.Roster.File, o.Total)); err != nil {
		return err
	}
	if o.TLS != "" {
		if err := o.LoadCertificates(o.TLS); err != nil {
			return err
		}
	}
	out := o.NewOutput(stdout, stderr)
	defer out.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.Logger = o.NewLogger("controller", out)
	o.OnEvent = func(e controller.Event) {
		if out.Event(e); out.Err() != nil {
			cancel() // nobody reads the results any more
		}
	}
	out.Say("controller: %d in %d branches of %s, records in %s", o.Total, len(o.Roster.Branches), o.Roster.File, o.DataDir)
	if fs.Changed("http") && o.HTTP != "" {
		out.Say("--http has no effect here: the dashboard is served by ./launcher")
	}
	c, err := controller.New(o.Config)
	if err != nil {
		return err
	}
	return o.Marked(errors.Join(c.Run(ctx), out.Err()))
}
