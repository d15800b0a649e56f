package branch

import (
	"math/rand/v2"
	"testing"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/roster"
)

// TestArrears: transfers of the last 10 ms are made up for; of a longer stall none.
func TestArrears(t *testing.T) {
	pay := func(late time.Duration) uint64 {
		var l ledger.Ledger
		var out ledger.Output
		plan := ledger.Plan{Total: 2_000_000, Names: []string{"a", "b"}, Balances: []uint64{1_000_000, 1_000_000}}
		if err := l.Open(&out, plan, "a", []string{"", ""}); err != nil {
			t.Fatal(err)
		}
		l.Start(&out)
		now := time.Unix(1, 0)
		p := payer{random: rand.New(rand.NewPCG(1, 1)), interval: time.Millisecond, amount: roster.Amount{Low: 1, High: 1}, due: now.Add(-late)}
		p.pace.window = firstWindow
		p.payDue(&l, &out, now)
		return l.Sent(1)
	}
	if n := pay(maxArrears); n < 10 {
		t.Errorf("%s late: %d transfers", maxArrears, n)
	}
	if n := pay(maxArrears + 1); n != 1 {
		t.Errorf("later: %d transfers", n)
	}
}

// TestSamples: so many transfers are timed at once.
func TestSamples(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	for i := range uint64(maxSampled + 1) {
		if n := len(p.under); uint64(n) != i {
			t.Fatalf("%d of %d are timed", n, i)
		}
		now = now.Add(sampleEvery)
		p.decided(1, i, now)
	}
	if n := len(p.under); n != maxSampled {
		t.Errorf("%d are timed", n)
	}
}
