package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"cutbank/internal/ledger"
)

// story is a bank whose channels move only when the script says so. Every step is durable at once.
type story struct {
	names   []string
	plan    ledger.Plan
	books   []*ledger.Ledger
	journal [][]byte
}

// TestStories runs the scripts of testdata. Their commands:
//
//	open branches=(p,q) balances=(10,10)
//	transfer from=p to=q money=3
//	deliver from=p to=q [items=1]     the next items of the channel; all without items
//	acknowledge from=p to=q           p hears how much q has
//	initiate at=p id=1
//	crash at=p                        p is made again from its journal
//	keep at=p / revert at=p           p's journal is copied / p comes back with the copy
//	verify at=p peer=q [sent= acked= received= hash=]   q's position as p sees it, some of it altered
//	show [id=1]                       the books, or a snapshot
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		t.Helper()
		var s story
		kept := make(map[int][]byte)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			var err error
			switch i := s.index(t, d, "at"); d.Cmd {
			case "open":
				s.open(t, d)
			case "transfer", "deliver", "acknowledge":
				err = s.channel(t, d)
			case "initiate":
				var id uint64
				d.ScanArgs(t, "id", &id)
				err = s.do(i, func(out *ledger.Output) error { return s.books[i].Initiate(out, id, 0) })
			case "crash":
				err = s.restart(i)
			case "keep":
				kept[i] = slices.Clone(s.journal[i])
			case "revert":
				s.journal[i] = slices.Clone(kept[i])
				err = s.restart(i)
			case "verify":
				err = s.verify(t, d, i)
			case "show":
				if d.HasArg("id") {
					return s.snapshot(t, d)
				}
				return s.show()
			default:
				t.Fatalf("%s: no command %s", d.Pos, d.Cmd)
			}
			if err != nil {
				return err.Error() + "\n"
			}
			return "ok\n"
		})
	})
}

// index is the branch that an argument names, or 0.
func (s *story) index(t *testing.T, d *datadriven.TestData, arg string) int {
	t.Helper()
	if !d.HasArg(arg) {
		return 0
	}
	var name string
	d.ScanArgs(t, arg, &name)
	i := slices.Index(s.names, name)
	if i < 0 {
		t.Fatalf("%s: no branch %s", d.Pos, name)
	}
	return i
}

func (s *story) do(i int, step func(out *ledger.Output) error) error {
	var out ledger.Output
	err := step(&out)
	s.journal[i] = append(s.journal[i], out.Persist...)
	return err
}

func (s *story) open(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	arg := func(name string) []string {
		for _, a := range d.CmdArgs {
			if a.Key == name {
				return a.Vals
			}
		}
		t.Fatalf("%s: no %s", d.Pos, name)
		return nil
	}
	*s = story{names: arg("branches")}
	s.plan.Names = s.names
	for _, v := range arg("balances") {
		var b uint64
		if _, err := fmt.Sscan(v, &b); err != nil {
			t.Fatal(err)
		}
		s.plan.Balances = append(s.plan.Balances, b)
		s.plan.Total += b
	}
	n := len(s.names)
	s.journal = make([][]byte, n)
	for i := range n {
		s.books = append(s.books, new(ledger.Ledger))
		if err := s.do(i, func(out *ledger.Output) error {
			return s.books[i].Open(out, s.plan, s.names[i], make([]string, n))
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *story) channel(t *testing.T, d *datadriven.TestData) error {
	t.Helper()
	i, j := s.index(t, d, "from"), s.index(t, d, "to")
	from, to := s.books[i], s.books[j]
	switch d.Cmd {
	case "transfer":
		var money uint64
		d.ScanArgs(t, "money", &money)
		return s.do(i, func(out *ledger.Output) error { return from.Transfer(out, j, money, 0, 4) })
	case "acknowledge":
		return s.do(i, func(out *ledger.Output) error { return from.Acknowledge(out, j, to.Received(i)) })
	}
	first := to.Received(i) + 1
	count := from.Sent(j) - to.Received(i)
	d.MaybeScanArgs(t, "items", &count)
	var items []ledger.Item
	for n := first; n < first+count; n++ {
		items = append(items, from.Item(j, n))
	}
	return s.do(j, func(out *ledger.Output) error { return to.Receive(out, i, first, items, 0) })
}

func (s *story) restart(i int) error {
	s.books[i] = new(ledger.Ledger)
	return s.books[i].Replay(s.journal[i])
}

func (s *story) verify(t *testing.T, d *datadriven.TestData, i int) error {
	t.Helper()
	peer := s.index(t, d, "peer")
	pos := s.books[peer].Position(i)
	d.MaybeScanArgs(t, "sent", &pos.Sent)
	d.MaybeScanArgs(t, "acked", &pos.Acknowledged)
	d.MaybeScanArgs(t, "received", &pos.Received)
	d.MaybeScanArgs(t, "hash", &pos.ReceivedHash)
	return s.books[i].Verify(peer, pos)
}

// show prints balances and what is on each channel, oldest first.
func (s *story) show() string {
	var b strings.Builder
	for i, l := range s.books {
		fmt.Fprintf(&b, "%s: %d", s.names[i], l.Balance())
		for j := range s.books {
			if i == j {
				continue
			}
			for n := max(s.books[j].Received(i), l.Sent(j)-uint64(l.Unacknowledged(j))) + 1; n <= l.Sent(j); n++ {
				if item := l.Item(j, n); item.Marker != 0 {
					fmt.Fprintf(&b, " ->%s:<%d>", s.names[j], item.Marker)
				} else {
					fmt.Fprintf(&b, " ->%s:%d", s.names[j], item.Money)
				}
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *story) snapshot(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var id, sum uint64
	d.ScanArgs(t, "id", &id)
	var b strings.Builder
	complete := true
	for i, l := range s.books {
		r, _ := l.Snapshot(id)
		if r == nil {
			fmt.Fprintf(&b, "%s: not recorded\n", s.names[i])
			complete = false
			continue
		}
		fmt.Fprintf(&b, "%s: %d", s.names[i], r.Balance)
		sum += r.Balance + r.InTransit()
		for j, c := range r.Channels {
			switch {
			case j == i:
			case c.Closed:
				fmt.Fprintf(&b, ", %s->%s: %d", s.names[j], s.names[i], c.State.Money)
			default:
				fmt.Fprintf(&b, ", %s->%s: recording", s.names[j], s.names[i])
			}
		}
		complete = complete && r.Complete()
		b.WriteByte('\n')
	}
	if complete {
		fmt.Fprintf(&b, "sum: %d of %d\n", sum, s.plan.Total)
	}
	return b.String()
}
