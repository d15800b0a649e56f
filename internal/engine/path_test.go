package engine_test

import (
	"encoding/binary"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
)

// path is two branches that pay each other, each with a journal, and the way of a transfer by hand:
// decision, journal, frame, receipt, journal, acknowledgement.
type path struct {
	w        *world
	journals [2]*journal.Journal
	commits  [2]int
	items    []ledger.Item
}

func newPath(tb testing.TB) *path {
	tb.Helper()
	p := &path{w: newWorld(tb, "a", "b"), items: make([]ledger.Item, 0, 1024)}
	p.w.connect(0, 1)
	p.w.settle()
	for i := range p.journals {
		fs, err := journal.Dir(tb.TempDir())
		if err != nil {
			tb.Fatal(err)
		}
		if p.journals[i], err = journal.Open(fs, journal.Config{Sync: journal.OS, SegmentBytes: 64 << 20}); err != nil {
			tb.Fatal(err)
		}
		if err := p.journals[i].Recover(nil, nil); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = p.journals[i].Close() })
	}
	return p
}

// commit makes the batch of a branch durable and lets its effects out.
func (p *path) commit(i int) {
	b := p.w.nodes[i].Seal()
	if len(b.Persist) > 0 {
		p.commits[i]++
		if err := p.journals[i].Commit(b.Persist); err != nil {
			p.w.t.Fatal(err)
		}
	}
	p.w.nodes[i].Release(b)
}

// carry hands over what is on its way, as a link does: items and acknowledgement together.
func (p *path) carry(from, to int) {
	port := p.w.ports[[2]int{from, to}]
	b := port.frames.Bytes()
	d := link.Delivery{Items: p.items[:0]}
	for len(b) > 0 {
		length, n := binary.Uvarint(b)
		frame := b[n : n+int(length)]
		b = b[n+int(length):]
		if item, ok := wire.ParseItem(frame); ok {
			d.Items = append(d.Items, item)
		} else if ack, ok := wire.ParseAck(frame); ok {
			d.Ack = ack
		} else {
			p.w.t.Fatalf("not short: %x", frame)
		}
	}
	port.frames.Reset()
	if err := p.w.nodes[to].Deliver(from, p.w.ports[[2]int{to, from}], d, 0); err != nil {
		p.w.t.Fatal(err)
	}
}

// pay makes so many transfers from one to the other and takes them all the way.
func (p *path) pay(from, n int) {
	to := 1 - from
	for range n {
		p.w.pay(from, to, 1)
	}
	p.commit(from)
	p.carry(from, to)
	p.commit(to)
	p.carry(to, from)
}

// TestLoneTransfer: a transfer alone is acknowledged after one commit at either end and a round trip.
// Nothing else happens in between: no timer runs in these steps.
func TestLoneTransfer(t *testing.T) {
	p := newPath(t)
	p.pay(0, 1)
	if n := p.w.nodes[0].Ledger.Unacknowledged(1); n != 0 {
		t.Errorf("%d items are unacknowledged", n)
	}
	if p.commits != [2]int{1, 1} {
		t.Errorf("commits %v, want one at either end", p.commits)
	}
	for i, want := range []uint64{share - 1, share + 1} {
		if got := p.w.nodes[i].Ledger.Balance(); got != want {
			t.Errorf("balance %d is %d, want %d", i, got, want)
		}
	}
}

// TestPathDoesNotAllocate: neither a lone transfer nor a batch allocates, from the decision to the
// acknowledgement, journals included.
func TestPathDoesNotAllocate(t *testing.T) {
	p := newPath(t)
	for _, n := range []int{1, 500} {
		round := func() { p.pay(0, n); p.pay(1, n) }
		for range 20 { // buffers and rings grow to their size
			round()
		}
		if got := testing.AllocsPerRun(100, round); got != 0 {
			t.Errorf("%v allocations for %d transfers there and back", got, n)
		}
	}
}

// BenchmarkPath is transfers there and back, with --sync=os: what the CPU does for one.
func BenchmarkPath(b *testing.B) {
	p := newPath(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.pay(0, 500)
		p.pay(1, 500)
		if i%1000 == 999 { // the journals grow
			b.StopTimer()
			p = newPath(b)
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/transfer")
}
