package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/record"
	"cutbank/internal/roster"
)

const showHelp = `Shows a recorded snapshot as text, with the cut drawn through it.

  ./launcher show 10                     of the bank under data/ that took a snapshot last
  ./launcher show 10 4000 branches.txt   of this bank
  ./launcher show 10 --svg > cut.svg     its space-time diagram as a picture

The events around the cut are there as long as the branches' journals reach back to it; with --record they
stay.

`

// runShow is `launcher show ID`. It reads files alone; the bank may be running.
func runShow(ctx context.Context, args []string, stdout io.Writer) error {
	usage := func(format string, args ...any) error {
		return &controller.UsageError{Err: fmt.Errorf(format, args...)}
	}
	fs := pflag.NewFlagSet("launcher show", pflag.ContinueOnError)
	fs.Usage = func() {}
	dir := fs.String("data-dir", "", "of the bank (default: see above)")
	svg := fs.Bool("svg", false, "an SVG in place of text")
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(stdout, showHelp+fs.FlagUsages())
		return err
	} else if err != nil {
		return usage("%w: see ./launcher show --help", err)
	}
	if n := fs.NArg(); n != 1 && (n != 3 || *dir != "") {
		return usage("which snapshot? ./launcher show ID [<total> <file>] [--data-dir DIR]")
	}
	id, err := strconv.ParseUint(fs.Arg(0), 10, 53)
	if err != nil {
		return usage("%q is not a snapshot id", fs.Arg(0))
	}
	switch {
	case fs.NArg() == 3:
		total, err := roster.ParseTotal(fs.Arg(1), roster.MinBranches)
		if err != nil {
			return usage("%w", err)
		}
		*dir = roster.DataDir(fs.Arg(2), total)
	case *dir == "":
		if *dir = lastBank(); *dir == "" {
			return usage("no bank has snapshots under data/: name one, as ./launcher show %d <total> <file>", id)
		}
	}
	r, err := controller.ReadSnapshot(*dir, id)
	if err != nil {
		return usage("%w", err)
	}
	names := make([]string, len(r.Branches))
	for i, b := range r.Branches {
		names[i] = b.Name
	}
	events, left, _, err := readCut(ctx, *dir, names, id, true)
	if err != nil {
		return err
	}
	if *svg {
		if len(events) == 0 {
			return usage("the events around snapshot %d are no longer kept: run the bank with --record", id)
		}
		_, err = io.WriteString(stdout, drawSVG(&r, names, events))
		return err
	}
	_, err = io.WriteString(stdout, drawCut(&r)+drawEvents(names, events, id, left))
	return err
}

// lastBank is the data directory under data/ whose snapshots were written last, "" when none were.
func lastBank() (dir string) {
	all, _ := filepath.Glob(filepath.Join("data", "*", controller.HistoryFile)) // the pattern is good
	var last time.Time
	for _, file := range all {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 && info.ModTime().After(last) {
			dir, last = filepath.Dir(file), info.ModTime()
		}
	}
	return dir
}

// drawCut draws the snapshot alone: when each branch recorded, and what was in transit.
func drawCut(r *controller.Record) string {
	const width = 40
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", r.Line())
	first, last := time.Time{}, time.Time{}
	at := make([]time.Time, len(r.Branches))
	for i, b := range r.Branches {
		at[i], _ = time.Parse(time.RFC3339Nano, b.RecordedAt) // zero draws at the left
		if first.IsZero() || at[i].Before(first) {
			first = at[i]
		}
		if at[i].After(last) {
			last = at[i]
		}
	}
	name := nameWidth(r)
	out.WriteString("\n")
	for i, b := range r.Branches {
		x := 0
		if span := last.Sub(first); span > 0 {
			x = int(int64(width) * int64(at[i].Sub(first)) / int64(span))
		}
		note := "marker from " + b.FirstMarkerFrom
		if b.FirstMarkerFrom == "" {
			note = "started it"
		}
		fmt.Fprintf(&out, "  %-*s ──%s◆%s  %d  recorded at %.1f ms, %s\n", name, b.Name, strings.Repeat("─", x),
			strings.Repeat("═", width-x)+"══", b.Balance, float64(at[i].Sub(first).Microseconds())/1000, note)
	}
	fmt.Fprintf(&out, "\n  in transit across the cut:\n")
	for _, c := range r.Channels {
		if c.Count > 0 {
			fmt.Fprintf(&out, "  %-*s ──%d──▶ %-*s  %d of the messages up to %d\n", name, c.Src, c.Amount, name, c.Dst, c.Count, c.Sent)
		}
	}
	if r.InTransit == 0 {
		out.WriteString("  nothing\n")
	}
	return out.String()
}

func nameWidth(r *controller.Record) int {
	w := 0
	for _, b := range r.Branches {
		w = max(w, len(b.Name))
	}
	return w
}

// drawEvents is a column for each branch, │ before its recording and ║ after, and a line for each event.
func drawEvents(names []string, events []record.Drawn, id, left uint64) string {
	const maxColumns = 12
	if len(events) == 0 || len(names) > maxColumns {
		return ""
	}
	width := 12
	for _, n := range names {
		width = max(width, len(n)+10)
	}
	var out strings.Builder
	out.WriteString("\n  * crosses the cut\n\n  " + strings.Repeat(" ", 10))
	for _, n := range names {
		fmt.Fprintf(&out, "%-*s", width, n)
	}
	const before = 12 // lines before the cut, besides sends that cross it
	began := cutBegins(events, id)
	recorded := map[string]bool{}
	for i := range events {
		d := &events[i]
		cell := cellOf(d)
		if cell == "" || (i < began-before && !d.Crosses) {
			continue
		}
		if d.Kind == record.Recorded && d.SnapshotID == id {
			recorded[d.Branch] = true
		}
		fmt.Fprintf(&out, "\n  %+7.1f   ", float64(d.At-events[began].At)/1000)
		for _, n := range names {
			line := "│"
			if recorded[n] {
				line = "║"
			}
			if n == d.Branch {
				line = cell
				if recorded[n] && d.Kind != record.Recorded {
					line = "║" + cell
				}
			}
			out.WriteString(line + strings.Repeat(" ", max(1, width-utf8.RuneCountInString(line))))
		}
	}
	out.WriteString("\n")
	if left > 0 {
		fmt.Fprintf(&out, "  %d events are left out\n", left)
	}
	return out.String()
}

// cutBegins is the index of the first recording of the snapshot.
func cutBegins(events []record.Drawn, id uint64) int {
	return max(0, slices.IndexFunc(events, func(d record.Drawn) bool { return d.Kind == record.Recorded && d.SnapshotID == id }))
}

func cellOf(d *record.Drawn) string {
	star := ""
	if d.Crosses {
		star = "*"
	}
	switch d.Kind {
	case record.Send:
		return fmt.Sprintf("%s%d → %s", star, d.Money, d.Peer)
	case record.Receive:
		return fmt.Sprintf("%s%d ← %s", star, d.Money, d.Peer)
	case record.Recorded:
		return fmt.Sprintf("◆ %d", d.Balance)
	case record.MarkerReceived:
		return "M ← " + d.Peer
	case record.MarkerSent, record.Gap:
		return ""
	}
	return d.Kind
}
