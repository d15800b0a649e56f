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
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/pflag"

	"cutbank/internal/branch"
	"cutbank/internal/identity"
	"cutbank/internal/journal"
	"cutbank/internal/lifecycle"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/rules"
	"cutbank/internal/version"
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
  ./branch inspect DIR                  the books in a branch's directory, offline
  ./branch verify DIR                   whether they can be read, whole

Usage: ./branch <name> <port> [interval_ms] [flags]

One branch of the bank. It waits for a controller to open it:
  ./controller 4000 branches.txt

Flags:
`

// errUsage is an error of the command line.
type errUsage struct{ error }

func main() {
	os.Exit(program(hooks()))
}

// program is the whole of main but its exit. Adapt changes the settings of the branch: tests do.
func program(adapt func(*branch.Config)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGXFSZ) // a limit on files is an error of the write that meets it
	stderr := os.Stderr            // go-plugin takes the variable's place; a launcher reads the last words here
	err := run(ctx, os.Args[1:], os.Stdout, stderr, adapt)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "branch:", err)
	return exitCode(err)
}

func exitCode(err error) int {
	switch held := (*lifecycle.HeldError)(nil); {
	case errors.As(err, &errUsage{}):
		return exitUsage
	case errors.As(err, &held):
		return lifecycle.ExitLocked
	}
	return exitFailure
}

// options are the command line.
type options struct {
	name     string
	port     uint16
	listen   string
	interval time.Duration
	amount   roster.Amount
	delay    link.Delay
	seed     uint64
	dataDir  string
	tls      string
	insecure bool
	health   string
	sync     journal.Sync
	broken   rules.Rule
	slower   time.Duration
	profile  string
	level    string
	format   string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer, adapt func(*branch.Config)) error {
	if len(args) == 2 && (args[0] == "inspect" || args[0] == "verify") {
		return readDirectory(args[0], args[1], stdout)
	}
	o, done, err := parse(args, stdout)
	if err != nil || done {
		return err
	}
	logger, closeLog, err := o.logger(stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	health := lifecycle.NewHealth()
	ctx, stop := tellSupervisor(ctx, health)
	defer stop()
	books, closeBooks, err := o.journal()
	if err != nil {
		return err
	}
	defer closeBooks()
	certificates, err := o.certificates()
	if err != nil {
		return err
	}
	listener, err := lifecycle.Listen(net.JoinHostPort(o.listen, strconv.Itoa(int(o.port))))
	if err != nil {
		return errUsage{fmt.Errorf("%w: stop it or choose another port", err)}
	}
	health.Waits("its journal to be read")
	cfg := branch.Config{
		Name: o.name, Listener: listener, Interval: o.interval, Amount: o.amount, Delay: o.delay, Seed: o.seed, Broken: o.broken,
		Journal: books, Durable: o.dataDir != "", Health: health, Logger: logger,
		Certificates: certificates,
	}
	if adapt != nil {
		adapt(&cfg)
	}
	b, err := branch.New(ctx, cfg)
	if errors.Is(err, context.Canceled) {
		return nil // asked to end before it began
	}
	if err != nil {
		return err
	}
	kept := "in memory: they end with this process (--data-dir keeps them)"
	if o.dataDir != "" {
		kept = filepath.Join(o.dataDir, o.name) + ", sync=" + o.sync.String()
	}
	logger.Info("branch listens", "address", listener.Addr().String(), "tls", certificates != nil, "books", kept)
	if o.health != "" {
		if err := lifecycle.ServeProbes(ctx, o.health, health); err != nil {
			return errUsage{err}
		}
	}
	if o.profile != "" {
		done, err := profile(o.profile)
		if err != nil {
			return err
		}
		defer done()
	}
	if err := b.Run(ctx); err != nil {
		logger.Error("branch failed", "err", err)
		return failure(err)
	}
	return nil
}

// certificates are the branch's, nil in plaintext.
func (o *options) certificates() (*identity.Certificates, error) {
	if o.tls == "" {
		return nil, nil
	}
	c, err := identity.Load(o.tls, identity.Branch(o.name))
	if err != nil {
		return nil, errUsage{fmt.Errorf("--tls: %w", err)}
	}
	return c, nil
}

// profile writes where the CPU goes until done is called.
func profile(path string) (done func(), err error) {
	f, err := os.Create(path) //nolint:gosec // named by the user
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() { pprof.StopCPUProfile(); _ = f.Close() }, nil
}

// failure adds what the user can do to an error of the disk.
func failure(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("disk full: make space and start the branch again, nothing is lost: %w", err)
	}
	return err
}

// journal opens the branch's directory, locked, or none: then the books are in memory.
func (o *options) journal() (branch.Journal, func(), error) {
	if o.dataDir == "" {
		return branch.Memory{}, func() {}, nil
	}
	dir := filepath.Join(o.dataDir, o.name)
	release, err := lifecycle.Lock(dir, lifecycle.LockFile)
	if err != nil {
		return nil, nil, err
	}
	fs, err := journal.Dir(dir)
	if err != nil {
		release()
		return nil, nil, err
	}
	j, err := journal.Open(fs, journal.Config{Sync: o.sync, SyncDelay: o.slower})
	if err != nil {
		release()
		return nil, nil, err
	}
	return j, func() { _ = j.Close(); release() }, nil
}

// tellSupervisor answers a launcher, or tells systemd, how the branch is; from the very start, since
// recovery may take long. A branch outlives its launcher: then nobody reads its stderr.
func tellSupervisor(ctx context.Context, health *lifecycle.Health) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	if lifecycle.Supervised() {
		signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP) // the launcher's end is not the branch's
		health.Waits("its journal to be read")
		go lifecycle.Serve(health) // until the process ends
		return ctx, cancel
	}
	var told sync.WaitGroup
	told.Go(func() { lifecycle.Notify(ctx, health) })
	return ctx, func() { cancel(); told.Wait() }
}

// maxLog is how large a supervised branch's log may be when it starts; a larger one becomes
// branch.log.old first.
const maxLog = 8 << 20

// logger writes to stderr, or, under a launcher, to branch.log in the branch's directory.
func (o *options) logger(stderr io.Writer) (hclog.Logger, func(), error) {
	opts := &hclog.LoggerOptions{
		Name: o.name, Level: hclog.LevelFromString(o.level), JSONFormat: o.format == "json", Output: stderr,
	}
	if !lifecycle.Supervised() || o.dataDir == "" {
		return hclog.New(opts), func() {}, nil
	}
	dir := filepath.Join(o.dataDir, o.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, "branch.log")
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, nil, fmt.Errorf("log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // the branch's own directory
	if err != nil {
		return nil, nil, fmt.Errorf("log: %w", err)
	}
	opts.Output, opts.JSONFormat, opts.Name = f, true, ""
	return hclog.New(opts), func() { _ = f.Close() }, nil
}

// parse reads the command line. Done tells that help or version was asked for and printed.
func parse(args []string, stdout io.Writer) (o options, done bool, err error) {
	fs := pflag.NewFlagSet("branch", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.listen, "listen", "127.0.0.1", "address to listen on")
	interval := fs.String("interval", "", "longest wait between two transfers, such as 500ms; 0 is as fast as it can (default 5s, or interval_ms)")
	amount := fs.String("amount", "1%-5%", "money of a transfer: 1, 1-10, or a share of the first balance")
	delay := fs.String("link-delay", "0", "hold each transfer and marker on its way, such as 50ms-250ms")
	fs.StringVar(&o.dataDir, "data-dir", "", "directory that holds a directory of this branch's name: its books survive (default: in memory)")
	fs.StringVar(&o.health, "health", "", "host:port that answers gRPC health checks: \"\" is liveness, \"ready\" readiness (default: none)")
	sync := fs.String("sync", "always", "always: money survives power loss; os: it survives kill -9")
	broken := fs.String("break", "", "take part in a bank without one of the rules that keep the books right; help lists them (default: with all)")
	fs.DurationVar(&o.slower, "sync-delay", 0, "added to each sync, to act as a slower disk (default 0s)")
	fs.StringVar(&o.profile, "cpu-profile", "", "file to write a CPU profile to when the branch ends (default: none)")
	fs.Uint64Var(&o.seed, "seed", 0, "of the random choices (default: another one each time)")
	fs.StringVar(&o.level, "log-level", "info", "trace, debug, info, warn or error")
	fs.StringVar(&o.format, "log-format", "text", "text or json")
	fs.StringVar(&o.tls, "tls", "", "directory of certificates: all connections use mutual TLS (./launcher certs FILE DIR makes them; default: plaintext)")
	fs.BoolVar(&o.insecure, "insecure", false, "listen in plaintext beyond this machine: whoever is on that network can read and change what is sent")
	quiet := fs.BoolP("quiet", "q", false, "only warnings and errors")
	verbose := fs.BoolP("verbose", "v", false, "debug messages too")
	showVersion := fs.Bool("version", false, "print the version")
	help := fs.BoolP("help", "h", false, "print this help")
	if err := fs.Parse(args); err != nil {
		return o, false, errUsage{fmt.Errorf("%w: see ./branch --help", err)}
	}
	switch {
	case *help:
		_, err = fmt.Fprint(stdout, usage+fs.FlagUsages())
		return o, true, err
	case *broken == "help":
		_, err = fmt.Fprint(stdout, rules.Table())
		return o, true, err
	case *showVersion:
		_, err = fmt.Fprintf(stdout, "branch %s, protocol %d\n", version.String(), link.Version)
		return o, true, err
	case *quiet:
		o.level = "warn"
	case *verbose:
		o.level = "debug"
	}
	if o.broken, err = rules.Parse(*broken); err != nil {
		return o, false, errUsage{fmt.Errorf("--break: %w", err)}
	}
	if o.dataDir != "" {
		o.dataDir = o.broken.Dir(o.dataDir)
	}
	if o.sync, err = journal.ParseSync(*sync); err == nil {
		err = o.set(fs.Args(), *interval, *amount, *delay)
	}
	if err != nil {
		return o, false, errUsage{fmt.Errorf("%w: see ./branch --help", err)}
	}
	return o, false, nil
}

func (o *options) set(args []string, interval, amount, delay string) (err error) {
	if len(args) < 2 || len(args) > 3 {
		return fmt.Errorf("a name and a port are needed, and at most an interval_ms besides: got %d arguments", len(args))
	}
	o.name = args[0]
	if err := roster.CheckName(o.name); err != nil {
		return err
	}
	if o.port, err = roster.ParsePort(args[1]); err != nil {
		return err
	}
	if err := identity.CheckPlaintext(o.listen, "--listen "+strconv.Quote(o.listen), o.insecure || o.tls != ""); err != nil {
		return err
	}
	o.interval = 5 * time.Second
	if len(args) == 3 {
		ms, err := strconv.ParseUint(args[2], 10, 31)
		if err != nil {
			return fmt.Errorf("interval_ms %q is not a whole number of milliseconds", args[2])
		}
		o.interval = time.Duration(ms) * time.Millisecond
	}
	if interval != "" {
		if o.interval, err = time.ParseDuration(interval); err != nil || o.interval < 0 || o.interval > time.Hour {
			return fmt.Errorf("interval %q is not a time such as 500ms, at most 1h", interval)
		}
	}
	if o.amount, err = roster.ParseAmount(amount); err != nil {
		return err
	}
	if hclog.LevelFromString(o.level) == hclog.NoLevel || (o.format != "text" && o.format != "json") {
		return fmt.Errorf("log level %q or format %q is not one of those in --help", o.level, o.format)
	}
	o.delay, err = link.ParseDelay(delay)
	return err
}
