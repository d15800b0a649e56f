package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"cutbank/internal/journal"
	"cutbank/internal/ledger"
)

// readDirectory is `branch inspect DIR` and `branch verify DIR`: it reads a branch's directory offline
// and changes nothing. Inspect shows the books; verify says whether they can be read, whole.
func readDirectory(verb, dir string, stdout io.Writer) error {
	fs, err := journal.ReadDir(dir)
	if err != nil {
		return err
	}
	var books ledger.Ledger
	report, err := journal.Verify(fs,
		func(_ uint64, state []byte) error { return books.Load(state) },
		func(index uint64, events []byte) error {
			if err := books.Replay(events); err != nil {
				return fmt.Errorf("commit %d: %w", index, err)
			}
			return nil
		})
	if err != nil {
		return err
	}
	if len(report.Segments) == 0 && report.Checkpoint == nil {
		return fmt.Errorf("%s holds no journal", dir)
	}
	if verb == "verify" {
		_, err = fmt.Fprintf(stdout, "%s: ok, %d commits of %d bytes since the checkpoint%s\n", dir, report.Commits, report.Bytes, torn(report))
		return err
	}
	return inspect(dir, &books, report, stdout)
}

func torn(r journal.Report) string {
	if r.Torn == nil {
		return ""
	}
	return fmt.Sprintf("; an incomplete last commit of %d bytes at %s:%d, which the next start cuts off",
		r.Torn.Bytes, r.Torn.File, r.Torn.Offset)
}

func inspect(dir string, l *ledger.Ledger, r journal.Report, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("directory", dir)
	row("segments", len(r.Segments))
	row("since checkpoint", fmt.Sprintf("%d commits, %d bytes%s", r.Commits, r.Bytes, torn(r)))
	if !l.Opened() {
		row("bank", "not opened")
		return w.Flush()
	}
	p := l.Plan()
	row("branch", p.Names[l.Self()])
	row("bank", fmt.Sprintf("%x", p.BankID))
	row("has a key", len(p.Key) > 0)
	row("total", p.Total)
	row("starts", l.Incarnation())
	row("balance", l.Balance())
	row("last snapshot", l.LastSnapshotID())
	row("in progress", l.SnapshotsInProgress())
	fmt.Fprint(w, "\npeer\taddress\titems sent\tunacknowledged\titems received\tmoney sent\tmoney received\n")
	for i, name := range p.Names {
		if i == l.Self() {
			continue
		}
		sent, received := l.Flows(i)
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", name, l.Addresses()[i],
			l.Sent(i), l.Unacknowledged(i), l.Received(i), sent.Money, received.Money)
	}
	return w.Flush()
}
