package controller

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/pflag"

	"cutbank/internal/identity"
	"cutbank/internal/roster"
	"cutbank/internal/rules"
)

// Options is what the command line of a program with a controller in it says: Config, and how to
// show what happens.
type Options struct {
	Config
	JSON      bool
	HTTP      string
	TLS       string
	Insecure  bool
	LogLevel  string
	LogFormat string
	Quiet     bool
	Verbose   bool
	Version   bool

	interval time.Duration
	amount   string
}

// Flags adds the flags that ./controller and ./launcher share.
func (o *Options) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.DataDir, "data-dir", "", "directory of bank.json and snapshots.jsonl (default: named after the file and the total, in data/)")
	fs.DurationVar(&o.interval, "interval", 0, "longest wait between two transfers of a branch; 0 = as fast as it can (default: the branch's own)")
	fs.StringVar(&o.amount, "amount", "", "of a transfer: 1, 1-10, or shares of the initial balance as 1%-5% (default: the branch's own)")
	fs.DurationVar(&o.Wait, "wait", defaultWait, "for all branches and their links at the start")
	fs.DurationVar(&o.SnapshotInterval, "snapshot-interval", defaultSnapshotInterval, "from one snapshot to the next")
	fs.IntVar(&o.Snapshots, "snapshots", 0, "stop after so many (default: never)")
	fs.DurationVar(&o.Duration, "duration", 0, "stop after so long (default: never)")
	fs.StringVar(&o.BrokenRule, "break", "", "open a bank without one of the rules that keep the books right, in a data directory of its own; help lists them (default: with all)")
	fs.Uint64Var(&o.Seed, "seed", 0, "of random choices (default: another one each time)")
	fs.BoolVar(&o.JSON, "json", false, "snapshots as one JSON object per line")
	fs.StringVar(&o.HTTP, "http", "127.0.0.1:7070", "address of the dashboard; empty = off")
	fs.StringVar(&o.TLS, "tls", "", "directory of certificates: all connections use mutual TLS (./launcher certs FILE DIR makes them; default: plaintext)")
	fs.BoolVar(&o.Insecure, "insecure", false, "plaintext to addresses beyond this machine: whoever is on that network can read and change what is sent")
	fs.StringVar(&o.LogLevel, "log-level", "warn", "trace, debug, info, warn, error or off")
	fs.StringVar(&o.LogFormat, "log-format", "text", "text or json")
	fs.BoolVarP(&o.Quiet, "quiet", "q", false, "results, warnings and errors only")
	fs.BoolVarP(&o.Verbose, "verbose", "v", false, "say more")
	fs.BoolVar(&o.Version, "version", false, "print the version and exit")
}

// Parse takes what the flags said and the two arguments, <total> <file>, and reads the file. Errors
// are *UsageError.
func (o *Options) Parse(fs *pflag.FlagSet) error {
	if fs.NArg() != 2 {
		return &UsageError{fmt.Errorf("%d arguments, not 2: write <total> <file>, for example 4000 branches.txt (-h shows more)", fs.NArg())}
	}
	if _, err := roster.ParseTotal(fs.Arg(0), roster.MinBranches); err != nil {
		return &UsageError{err}
	}
	var err error
	if o.Roster, err = roster.Load(fs.Arg(1)); err != nil {
		return &UsageError{err}
	}
	if o.Total, err = roster.ParseTotal(fs.Arg(0), len(o.Roster.Branches)); err != nil {
		return &UsageError{err}
	}
	if fs.Changed("interval") {
		o.Settings.Interval = &o.interval
	}
	if fs.Changed("amount") {
		o.Settings.Amount = &o.amount
	}
	if err := o.checkFlags(); err != nil {
		return err
	}
	if o.SnapshotInterval <= 0 {
		return &UsageError{fmt.Errorf("--snapshot-interval %s is not above 0", o.SnapshotInterval)}
	}
	if hclog.LevelFromString(o.LogLevel) == hclog.NoLevel {
		return &UsageError{fmt.Errorf("--log-level %q is not trace, debug, info, warn, error or off", o.LogLevel)}
	}
	if o.LogFormat != "text" && o.LogFormat != "json" {
		return &UsageError{fmt.Errorf("--log-format %q is not text or json", o.LogFormat)}
	}
	return o.checkPlaintext()
}

// checkPlaintext refuses addresses beyond this machine unless they are wanted, or encrypted.
func (o *Options) checkPlaintext() error {
	for _, b := range o.Roster.Branches {
		err := identity.CheckPlaintext(b.Host, fmt.Sprintf("%s:%d: %s", o.Roster.File, b.Line, b.Host), o.Insecure || o.TLS != "")
		if err != nil {
			return &UsageError{err}
		}
	}
	return nil
}

// LoadCertificates reads the controller's certificates from a directory.
func (o *Options) LoadCertificates(dir string) (err error) {
	if o.Certificates, err = identity.Load(dir, identity.Controller); err != nil {
		return &UsageError{fmt.Errorf("--tls: %w", err)}
	}
	return nil
}

// UseDataDir names the data directory when no flag did, sets a bank without one of the rules apart from
// the others, and finds out whether the one that is there is such a bank. Errors are *UsageError.
func (o *Options) UseDataDir(usual string) error {
	rule, err := rules.Parse(o.BrokenRule)
	if err != nil {
		return &UsageError{fmt.Errorf("--break: %w", err)}
	}
	if o.DataDir == "" {
		o.DataDir = usual
	}
	o.DataDir = rule.Dir(o.DataDir)
	held, err := ReadPlan(o.DataDir)
	if held == nil || err != nil {
		return nil //nolint:nilerr // the controller reads it again and says what is wrong
	}
	if rule != rules.None && held.BrokenRule != o.BrokenRule {
		return &UsageError{fmt.Errorf("--break %s: %s holds a bank with --break %q: move it aside", rule, o.DataDir, held.BrokenRule)}
	}
	o.BrokenRule = held.BrokenRule
	return nil
}

// Marked is an error of a bank without one of the rules, or of one with all of them.
func (o *Options) Marked(err error) error {
	rule, _ := rules.Parse(o.BrokenRule)
	if err == nil || rule == rules.None {
		return err
	}
	return fmt.Errorf("%s%w", rule.Mark(), err)
}

// NewOutput is the Output that the flags ask for.
func (o *Options) NewOutput(stdout, stderr io.Writer) *Output {
	out := NewOutput(stdout, stderr)
	out.JSON, out.Quiet, out.Verbose = o.JSON, o.Quiet, o.Verbose
	if rule, err := rules.Parse(o.BrokenRule); err == nil {
		out.Mark = rule.Mark()
	}
	return out
}

// NewLogger is the logger that the flags ask for.
func (o *Options) NewLogger(name string, w io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: name, Level: hclog.LevelFromString(strings.TrimSpace(o.LogLevel)), Output: w, JSONFormat: o.LogFormat == "json",
	})
}
