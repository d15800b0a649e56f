// Command branch is one branch of the bank.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/pflag"

	"cutbank/internal/branch"
	"cutbank/internal/link"
)

// Exit codes of the program.
const (
	exitFailure = 1
	exitUsage   = 2
)

const usage = `Examples:
  ./branch branch1 9001                 one branch, at the assignment's pace
  ./branch branch1 9001 1000            at most 1000 ms between two transfers
  ./branch branch1 9001 --amount 1-10   other amounts

Usage: ./branch <name> <port> [interval_ms] [flags]

One branch of the bank. It waits for a controller to open it:
  ./controller 4000 branches.txt

Flags:
`

// errUsage is an error of the command line.
type errUsage struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "branch:", err)
	if errors.As(err, &errUsage{}) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailure)
}

// options are the command line.
type options struct {
	name     string
	port     uint16
	listen   string
	interval time.Duration
	amount   branch.Amount
	delay    link.Delay
	seed     uint64
	level    string
	format   string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, done, err := parse(args, stdout)
	if err != nil || done {
		return err
	}
	logger := hclog.New(&hclog.LoggerOptions{
		Name: o.name, Level: hclog.LevelFromString(o.level), JSONFormat: o.format == "json", Output: stderr,
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(o.listen, strconv.Itoa(int(o.port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is in use: stop what listens there or choose another port", o.port)
	} else if err != nil {
		return fmt.Errorf("can't listen: %w", err)
	}
	b, err := branch.New(branch.Config{
		Name: o.name, Listener: listener, Interval: o.interval, Amount: o.amount, Delay: o.delay, Seed: o.seed, Logger: logger,
	})
	if err != nil {
		return err
	}
	logger.Info("branch listens", "address", listener.Addr().String(), "books", "in memory: they end with this process")
	return b.Run(ctx)
}

// parse reads the command line. Done tells that help or version was asked for and printed.
func parse(args []string, stdout io.Writer) (o options, done bool, err error) {
	fs := pflag.NewFlagSet("branch", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.listen, "listen", "127.0.0.1", "address to listen on")
	interval := fs.String("interval", "", "longest wait between two transfers, such as 500ms; 0 is as fast as it can (default 5s, or interval_ms)")
	amount := fs.String("amount", "1%-5%", "money of a transfer: 1, 1-10, or a share of the first balance")
	delay := fs.String("link-delay", "0", "hold each transfer and marker on its way, such as 50ms-250ms")
	fs.Uint64Var(&o.seed, "seed", 0, "of the random choices; 0 is another one each time")
	fs.StringVar(&o.level, "log-level", "info", "trace, debug, info, warn or error")
	fs.StringVar(&o.format, "log-format", "text", "text or json")
	quiet := fs.BoolP("quiet", "q", false, "only warnings and errors")
	verbose := fs.BoolP("verbose", "v", false, "debug messages too")
	version := fs.Bool("version", false, "print the version")
	help := fs.BoolP("help", "h", false, "print this help")
	if err := fs.Parse(args); err != nil {
		return o, false, errUsage{fmt.Errorf("%w: see ./branch --help", err)}
	}
	switch {
	case *help:
		_, err = fmt.Fprint(stdout, usage+fs.FlagUsages())
		return o, true, err
	case *version:
		_, err = fmt.Fprintln(stdout, "cutbank branch, protocol", link.Version)
		return o, true, err
	case *quiet:
		o.level = "warn"
	case *verbose:
		o.level = "debug"
	}
	if err := o.set(fs.Args(), *interval, *amount, *delay); err != nil {
		return o, false, errUsage{fmt.Errorf("%w: see ./branch --help", err)}
	}
	return o, false, nil
}

func (o *options) set(args []string, interval, amount, delay string) (err error) {
	if len(args) < 2 || len(args) > 3 {
		return fmt.Errorf("a name and a port are needed, and at most an interval_ms besides: got %d arguments", len(args))
	}
	o.name = args[0]
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("port %q is not between 1 and 65535", args[1])
	}
	o.port = uint16(port)
	o.interval = 5 * time.Second
	if len(args) == 3 {
		ms, err := strconv.ParseUint(args[2], 10, 31)
		if err != nil {
			return fmt.Errorf("interval_ms %q is not a whole number of milliseconds", args[2])
		}
		o.interval = time.Duration(ms) * time.Millisecond //nolint:gosec // 31 bits
	}
	if interval != "" {
		if o.interval, err = time.ParseDuration(interval); err != nil || o.interval < 0 || o.interval > time.Hour {
			return fmt.Errorf("interval %q is not a time such as 500ms, at most 1h", interval)
		}
	}
	if o.amount, err = branch.ParseAmount(amount); err != nil {
		return err
	}
	if hclog.LevelFromString(o.level) == hclog.NoLevel || (o.format != "text" && o.format != "json") {
		return fmt.Errorf("log level %q or format %q is not one of those in --help", o.level, o.format)
	}
	o.delay, err = parseDelay(delay)
	return err
}

// parseDelay reads "0", "50ms" or "50ms-250ms".
func parseDelay(s string) (d link.Delay, err error) {
	low, high, ranged := strings.Cut(s, "-")
	if !ranged {
		high = low
	}
	var err1, err2 error
	d.Min, err1 = time.ParseDuration(low)
	d.Max, err2 = time.ParseDuration(high)
	if err1 != nil || err2 != nil || d.Min < 0 || d.Max < d.Min || d.Max > time.Minute {
		return d, fmt.Errorf("link delay %q is not a range such as 50ms-250ms, at most 1m", s)
	}
	return d, nil
}
