package controller

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const waitingLineEvery = 5 * time.Second // where lines can't be changed

// Output shows events to people: snapshots on stdout, everything else on stderr. It is also the
// writer for log lines, so that they don't run into a line that is still being changed. Safe for
// concurrent use.
type Output struct {
	JSON     bool // snapshots as records, one line each, in place of the assignment's blocks
	Quiet    bool // nothing but results, warnings and errors
	Verbose  bool // also branches that come and go
	Terminal bool // stderr is one: lines may be changed, and have colour
	Colour   bool
	Mark     string // before every line but JSON, which has a field for it: of a bank without one of the rules

	mu       sync.Mutex
	stdout   io.Writer
	stderr   io.Writer
	err      error // the first of stdout
	changing bool  // the last line on the terminal has no end yet
	told     time.Time
}

// NewOutput writes to these two and finds out whether the second is a terminal.
func NewOutput(stdout, stderr io.Writer) *Output {
	o := &Output{stdout: stdout, stderr: stderr}
	if f, ok := stderr.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		if info, err := f.Stat(); err == nil {
			o.Terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	o.Colour = o.Terminal && os.Getenv("NO_COLOR") == ""
	return o
}

// Err is the first error of stdout, nil as long as results can be written.
func (o *Output) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// End erases a line that has no end yet: what is written next is not the Output's.
func (o *Output) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endChanging()
}

// Write is for log lines.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endChanging()
	if _, err := o.stderr.Write(o.marked(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Say writes a line to stderr, unless quiet.
func (o *Output) Say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.Quiet {
		o.line(fmt.Sprintf(format, args...))
	}
}

// Event shows an event.
func (o *Output) Event(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e := e.(type) {
	case SnapshotComplete:
		o.result(e.Record)
		if !o.Quiet || e.Record.Status != Consistent {
			o.line(o.coloured(e.Record))
		}
	case SnapshotIncomplete:
		o.line(e.Record.Line() + " (" + e.Reason + ")")
	case SnapshotRefused:
		if o.Verbose {
			o.line(fmt.Sprintf("snapshot %d not started by %s: %s", e.ID, e.Initiator, e.Reason))
		}
	case Waiting:
		o.waiting(e)
	default:
		if text := o.text(e); text != "" && !o.Quiet {
			o.line(text)
		}
	}
}

// text is the line of an event that changes nothing on stdout.
func (o *Output) text(e Event) string {
	switch e := e.(type) {
	case Opened:
		line := fmt.Sprintf("opened a new bank: %d in %d branches", e.Total, e.Branches)
		if e.Restored != nil {
			line += fmt.Sprintf(", restored from snapshot %d", e.Restored.SnapshotID)
		}
		if e.Aside != "" {
			line += "; the branches of the one before kept their books in memory and are gone, its plan is now " + e.Aside
		}
		return line
	case Resumed:
		line := fmt.Sprintf("resumed the bank of %d in %d branches, last snapshot %d", e.Total, e.Branches, e.LastSnapshotID)
		if !e.Keyed {
			line += "; it was opened without a key: whoever reaches a port may talk to a branch"
		}
		return line
	case Ready:
		if e.SnapshotInterval < 0 {
			return "all links are up; snapshots on demand"
		}
		return fmt.Sprintf("all links are up; first snapshot after %s, then every %s", e.FirstSnapshot, e.SnapshotInterval)
	case BranchUp:
		if o.Verbose {
			return fmt.Sprintf("%s %s is up, incarnation %d", e.Name, e.Addr, e.Incarnation)
		}
	case BranchDown:
		return fmt.Sprintf("%s %s is down: %s", e.Name, e.Addr, e.Reason)
	case LinkCut:
		return fmt.Sprintf("the link %s–%s is cut for %s", e.At, e.Peer, e.For)
	case Stopped:
		return e.String()
	}
	return ""
}

// result is one write, so that a reader of the pipe never sees half a block.
func (o *Output) result(r Record) {
	out := o.marked(r.Block())
	if o.JSON {
		line, err := json.Marshal(r)
		if err != nil {
			o.err = err
			return
		}
		out = append(line, '\n')
	}
	if _, err := o.stdout.Write(out); err != nil && o.err == nil {
		o.err = fmt.Errorf("write to stdout: %w", err)
	}
}

func (o *Output) coloured(r Record) string {
	line := r.Line()
	if !o.Colour {
		return line
	}
	return strings.NewReplacer("✓", "\x1b[32m✓\x1b[0m", "✗", "\x1b[31m✗\x1b[0m").Replace(line)
}

func (o *Output) waiting(w Waiting) {
	if o.Quiet {
		return
	}
	if o.Terminal {
		// Cut off at the edge of the terminal: what is wrapped could not be erased.
		fmt.Fprintf(o.stderr, "\r\x1b[K\x1b[?7l%s%s\x1b[?7h", o.Mark, w.String())
		o.changing = true
		return
	}
	if now := time.Now(); now.Sub(o.told) >= waitingLineEvery {
		o.told = now
		o.line(w.String())
	}
}

func (o *Output) line(text string) {
	o.endChanging()
	_, _ = o.stderr.Write(o.marked([]byte(text + "\n")))
}

// marked puts the mark before each line that is not empty.
func (o *Output) marked(text []byte) []byte {
	if o.Mark == "" {
		return text
	}
	var b []byte
	for line := range bytes.Lines(text) {
		if len(line) > 1 {
			b = append(b, o.Mark...)
		}
		b = append(b, line...)
	}
	return b
}

func (o *Output) endChanging() {
	if o.changing {
		fmt.Fprint(o.stderr, "\r\x1b[K")
		o.changing = false
	}
}

// String is the summary at the end of a run.
func (s Stopped) String() string {
	line := fmt.Sprintf("transfers in this run: %d paid, %d received\nsnapshots: %d consistent, %d incomplete", s.Paid, s.Received, s.Consistent, s.Incomplete)
	if s.Inconsistent > 0 {
		line += fmt.Sprintf(", %d INCONSISTENT", s.Inconsistent)
	}
	if s.Last == nil {
		return line
	}
	ms := func(d time.Duration) string { return milliseconds(float64(d.Microseconds()) / 1000) }
	line += fmt.Sprintf("; took %s min, %s median, %s max", ms(s.Min), ms(s.Median), ms(s.Max))
	line += fmt.Sprintf("\nmoney in snapshot %d: ", s.Last.SnapshotID)
	const shown = 16
	for i, b := range s.Last.Branches {
		if i == shown {
			line += fmt.Sprintf("%d more branches, ", len(s.Last.Branches)-shown)
			break
		}
		line += fmt.Sprintf("%s %d, ", b.Name, b.Balance)
	}
	return line + fmt.Sprintf("in transit %d, total %d", s.Last.InTransit, add(s.Last.InBranches, s.Last.InTransit))
}
