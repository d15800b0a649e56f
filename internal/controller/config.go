package controller

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/identity"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// Defaults of Config.
const (
	defaultWait             = 60 * time.Second
	defaultSnapshotInterval = 2 * time.Second
)

// Config is what a controller needs to know.
type Config struct {
	Roster  roster.Roster
	Total   uint64
	DataDir string // holds bank.json and snapshots.jsonl; made when it is not there

	Settings         Settings      // given to every branch; default: the branch's own
	Wait             time.Duration // for all branches and their links at the start; default 60 s
	SnapshotInterval time.Duration // from one start to the next; default 2 s; negative: only on demand
	Snapshots        int           // Run ends after so many are complete; default 0: no end
	Duration         time.Duration // Run ends so long after all are ready; default 0: no end
	Seed             uint64        // of the choice of initiators; default 0: another one each time

	Restore       *Plan // opens a bank from this plan when the directory holds none; default: an even split
	StopTransfers bool  // at the end of Run; default: the branches go on

	BrokenRule string // of a bank that is opened with --break; default: none
	Remedy     string // what a user can do about branches that hold another bank; default: standaloneRemedy

	Logger  hclog.Logger // default: none
	OnEvent func(Event)  // called on the controller's loop: must not wait nor call the controller; default: none
	// Certificates prove the controller to the branches and check theirs, over TLS; default: plaintext.
	Certificates *identity.Certificates
}

// standaloneRemedy is what the user of a standalone controller can do about another bank.
const standaloneRemedy = "name that bank's --data-dir, total and file, or stop the branches and start them with " +
	"new data directories (--fresh belongs to ./launcher: a controller can't empty branches that are running)"

// Validate fills in the defaults. Its errors are *UsageError.
func (c *Config) Validate() error {
	n := len(c.Roster.Branches)
	switch {
	case n < roster.MinBranches:
		return &UsageError{fmt.Errorf("a bank needs at least %d branches, not %d", roster.MinBranches, n)}
	case c.Total < uint64(n) || c.Total > roster.MaxTotal:
		return &UsageError{fmt.Errorf("total %d is not between %d and %d", c.Total, n, uint64(roster.MaxTotal))}
	case c.DataDir == "":
		return &UsageError{errors.New("no data directory is named")}
	}
	if err := c.checkFlags(); err != nil {
		return err
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.SnapshotInterval == 0 {
		c.SnapshotInterval = defaultSnapshotInterval
	}
	if c.Remedy == "" {
		c.Remedy = standaloneRemedy
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	return nil
}

// checkFlags is the part of Validate that is about the command line alone.
func (c *Config) checkFlags() error {
	if err := c.Settings.validate(); err != nil {
		return &UsageError{err}
	}
	if c.Wait < 0 || c.Duration < 0 || c.Snapshots < 0 {
		return &UsageError{errors.New("--wait, --duration and --snapshots can't be negative")}
	}
	return nil
}

// Settings are those of the branches that can be changed while they run. Nil stays as it is.
type Settings struct {
	Interval *time.Duration // longest wait between two transfers; 0: as fast as it can
	Amount   *string        // of a transfer: "1", "1-10", "1%-5%"
	Stopped  *bool          // no new transfers
}

func (s Settings) validate() error {
	if s.Interval != nil && *s.Interval < 0 {
		return fmt.Errorf("interval %s is negative", *s.Interval)
	}
	if s.Interval != nil && *s.Interval > time.Hour { // branches refuse it
		return fmt.Errorf("interval %s is more than an hour", *s.Interval)
	}
	if s.Amount != nil {
		if _, err := roster.ParseAmount(*s.Amount); err != nil {
			return err
		}
	}
	return nil
}

// merge takes over what the newer one sets.
func (s *Settings) merge(newer Settings) {
	if newer.Interval != nil {
		s.Interval = newer.Interval
	}
	if newer.Amount != nil {
		s.Amount = newer.Amount
	}
	if newer.Stopped != nil {
		s.Stopped = newer.Stopped
	}
}

func (s Settings) proto() *bankpb.Settings {
	m := &bankpb.Settings{Amount: s.Amount, Stopped: s.Stopped}
	if s.Interval != nil {
		us := uint64(s.Interval.Microseconds()) //nolint:gosec // Validate: not negative
		m.IntervalUs = &us
	}
	return m
}

// UsageError is something that the user has to change: arguments, files, or another bank.
type UsageError struct{ Err error }

// Error is the cause's.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// BooksError is a snapshot that does not add up.
type BooksError struct {
	SnapshotID  uint64
	Differences []Difference
}

// Error names the snapshot and what does not add up, channels among it.
func (e *BooksError) Error() string {
	const shown = 5
	var lines []string
	for i, d := range e.Differences {
		if i == shown {
			lines = append(lines, fmt.Sprintf("and %d more in %s", len(e.Differences)-shown, HistoryFile))
			break
		}
		lines = append(lines, d.String())
	}
	return fmt.Sprintf("the books do not balance in snapshot %d: %s", e.SnapshotID, strings.Join(lines, "; "))
}

// WaitError is a bank that was not ready in time.
type WaitError struct {
	Wait    time.Duration
	Waiting Waiting
}

// Error names who is missing.
func (e *WaitError) Error() string {
	return fmt.Sprintf("not ready within %s: %s (--wait sets how long)", e.Wait, e.Waiting.String())
}

// ExitCode is the exit code of a program that ends with this error.
func ExitCode(err error) int {
	var usage *UsageError
	var books *BooksError
	var wait *WaitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &books):
		return 3
	case errors.As(err, &usage):
		return 2
	case errors.As(err, &wait):
		return 4
	default:
		return 1
	}
}

// listed is for messages, which must not grow with the bank.
func listed(names []string) string {
	const shown = 16
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}
