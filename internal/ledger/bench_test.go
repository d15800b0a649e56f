package ledger_test

import (
	"testing"

	"cutbank/internal/ledger"
)

// two is a bank of two branches with plenty of money.
func two(tb testing.TB) (a, b *ledger.Ledger, oa, ob *ledger.Output) {
	tb.Helper()
	plan := ledger.Plan{Names: []string{"a", "b"}, Balances: []uint64{1 << 40, 1 << 40}, Total: 1 << 41}
	a, b, oa, ob = new(ledger.Ledger), new(ledger.Ledger), new(ledger.Output), new(ledger.Output)
	if err := a.Open(oa, plan, "a", []string{"", ""}); err != nil {
		tb.Fatal(err)
	}
	if err := b.Open(ob, plan, "b", []string{"", ""}); err != nil {
		tb.Fatal(err)
	}
	return a, b, oa, ob
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	a, b, oa, ob := two(t)
	items := make([]ledger.Item, 1)
	round := func() {
		if err := a.Transfer(oa, 1, 1, 0, 64); err != nil {
			t.Fatal(err)
		}
		items[0] = a.Item(1, a.Sent(1))
		if err := b.Receive(ob, 0, a.Sent(1), items, 0); err != nil {
			t.Fatal(err)
		}
		if err := a.Acknowledge(oa, 1, b.Received(0)); err != nil {
			t.Fatal(err)
		}
		oa.Reset()
		ob.Reset()
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations a transfer", n)
	}
}

func BenchmarkTransfer(b *testing.B) {
	l, _, out, _ := two(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := l.Transfer(out, 1, 1, 0, 1<<20); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			if err := l.Acknowledge(out, 1, l.Sent(1)); err != nil {
				b.Fatal(err)
			}
			out.Reset()
		}
	}
}

// BenchmarkReceive takes 64 transfers a turn.
func BenchmarkReceive(b *testing.B) {
	_, l, _, out := two(b)
	items := make([]ledger.Item, 64)
	for i := range items {
		items[i].Money = 1
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Receive(out, 0, l.Received(0)+1, items, 0); err != nil {
			b.Fatal(err)
		}
		out.Reset()
	}
}

// BenchmarkReplay replays a batch of 1000 transfers sent, 1000 received and their acknowledgement.
func BenchmarkReplay(b *testing.B) {
	l, _, out, _ := two(b)
	again, _, _, _ := two(b)
	out.Reset()
	items := make([]ledger.Item, 1000)
	for i := range items {
		items[i].Money = 1
		if err := l.Transfer(out, 1, 1, 0, 1000); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Receive(out, 1, 1, items, 0); err != nil {
		b.Fatal(err)
	}
	if err := l.Acknowledge(out, 1, 1000); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := again.Replay(out.Persist); err != nil {
			b.Fatal(err)
		}
	}
}
