package ledger_test

import (
	"bytes"
	"testing"

	"cutbank/internal/ledger"
	"cutbank/internal/rules"
)

// TestABankKeepsTheRuleThatItLacks through a recovery from events and one from a checkpoint, and the
// books replayed are the books that were.
func TestABankKeepsTheRuleThatItLacks(t *testing.T) {
	for _, rule := range append(rules.All(), rules.None) {
		plan := ledger.Plan{Names: []string{"p", "q", "r"}, Balances: []uint64{10, 10, 10}, Broken: rule}
		var l, replayed, loaded ledger.Ledger
		var out ledger.Output
		if err := l.Open(&out, plan, "p", make([]string, 3)); err != nil {
			t.Fatal(err)
		}
		l.Start(&out)
		if err := l.Initiate(&out, 1, 0); err != nil {
			t.Fatal(err)
		}
		if err := l.Transfer(&out, 1, 2, 0, 10); err != nil {
			t.Fatal(err)
		}
		l.SendOwed(&out)
		if err := replayed.Replay(out.Persist); err != nil {
			t.Fatal(err)
		}
		if a, b := l.Checkpoint(nil), replayed.Checkpoint(nil); !bytes.Equal(a, b) {
			t.Errorf("%s: replayed otherwise", rule)
		}
		if err := loaded.Load(l.Checkpoint(nil)); err != nil {
			t.Fatalf("%s: %v", rule, err)
		}
		if replayed.Plan().Broken != rule || loaded.Plan().Broken != rule {
			t.Errorf("%s became %s and %s", rule, replayed.Plan().Broken, loaded.Plan().Broken)
		}
		want := map[rules.Rule]uint64{rules.MarkerOvertaken: 0}
		if n, ok := want[rule]; ok && l.Sent(2) != n { // nothing has passed the marker yet
			t.Errorf("%s: %d items to r", rule, l.Sent(2))
		} else if !ok && l.Sent(2) != 1 {
			t.Errorf("%s: %d items to r", rule, l.Sent(2))
		}
	}
	if err := new(ledger.Ledger).Replay([]byte{4<<3 | 6, 1, 'x'}); err == nil {
		t.Error("a rule before the bank is opened")
	}
}
