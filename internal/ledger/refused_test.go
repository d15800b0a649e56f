package ledger_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"cutbank/internal/ledger"
)

// TestRefusedInputs: what no honest peer or client asks is refused, and changes nothing.
func TestRefusedInputs(t *testing.T) {
	var l ledger.Ledger
	var out ledger.Output
	names := []string{"p", "q", "r"}
	plan := ledger.Plan{Names: names, Balances: []uint64{10, 10, 10}, Total: 30}
	if err := l.Open(&out, plan, "p", make([]string, 3)); err != nil {
		t.Fatal(err)
	}
	l.Start(&out)
	if err := l.Receive(&out, 1, 1, []ledger.Item{{Marker: 7}}, 0); err != nil {
		t.Fatal(err)
	}
	before, events := l.Checkpoint(nil), len(out.Persist)
	receive := func(first uint64, item ledger.Item) error {
		return l.Receive(&out, 1, first, []ledger.Item{item}, 0)
	}
	for what, test := range map[string]struct{ got, want error }{
		"a gap":                    {receive(3, ledger.Item{Money: 1}), ledger.ErrBadItem},
		"a transfer of nothing":    {receive(2, ledger.Item{}), ledger.ErrBadItem},
		"more than the bank has":   {receive(2, ledger.Item{Money: 21}), ledger.ErrBadItem},
		"a marker beyond all ids":  {receive(2, ledger.Item{Marker: ledger.MaxMoney + 1}), ledger.ErrBadItem},
		"a marker twice":           {receive(2, ledger.Item{Marker: 7}), ledger.ErrBadItem},
		"received before":          {receive(1, ledger.Item{Marker: 7}), nil}, // skipped
		"acknowledged, never sent": {l.Acknowledge(&out, 1, 2), ledger.ErrBadItem},
		"acknowledged before":      {l.Acknowledge(&out, 1, 0), nil}, // nothing new
		"a snapshot that exists":   {l.Initiate(&out, 7, 0), ledger.ErrExists},
		"a transfer of no money":   {l.Transfer(&out, 1, 0, 0, 9), ledger.ErrNotMoney},
		"more than the balance":    {l.Transfer(&out, 1, 11, 0, 9), ledger.ErrShort},
		"more than the window":     {l.Transfer(&out, 1, 1, 0, 1), ledger.ErrWindow}, // of a marker
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: %v, want %v", what, test.got, test.want)
		}
	}
	if l.Open(&out, plan, "p", make([]string, 3)) == nil || l.Move(&out, []string{"here:1"}) == nil {
		t.Error("opened twice, or moved with one address of three")
	}
	if !bytes.Equal(before, l.Checkpoint(nil)) || len(out.Persist) != events {
		t.Error("something has changed")
	}
	moved := []string{"a:1", "b:1", "c:1"}
	if err := l.Move(&out, moved); err != nil || !slices.Equal(l.Addresses(), moved) {
		t.Errorf("moved to %v: %v", l.Addresses(), err)
	}
}

// TestRefusedPlans: a plan that is no bank is refused, by Open and in a journal.
func TestRefusedPlans(t *testing.T) {
	for what, change := range map[string]func(p *ledger.Plan){
		"another's roster":       func(p *ledger.Plan) { p.Names[0] = "x" },
		"one branch":             func(p *ledger.Plan) { p.Names = p.Names[:1] },
		"a balance is missing":   func(p *ledger.Plan) { p.Balances = p.Balances[:1] },
		"no ids are left":        func(p *ledger.Plan) { p.LastSnapshotID = ledger.MaxMoney },
		"half a key":             func(p *ledger.Plan) { p.Key = make([]byte, 16) },
		"a name twice":           func(p *ledger.Plan) { p.Names[1] = "p" },
		"a balance too large":    func(p *ledger.Plan) { p.Balances[0] = ledger.MaxMoney + 1 },
		"balances too large":     func(p *ledger.Plan) { p.Balances[0], p.Balances[1] = ledger.MaxMoney, 1 },
		"too much on its way":    func(p *ledger.Plan) { p.InTransit[0].Money = ledger.MaxMoney },
		"no such channel":        func(p *ledger.Plan) { p.InTransit[0].Dst = 2 },
		"nothing on its way":     func(p *ledger.Plan) { p.InTransit[0].Money = 0 },
		"another total than sum": func(p *ledger.Plan) { p.Total++ },
	} {
		plan := ledger.Plan{
			Names: []string{"p", "q"}, Balances: []uint64{1, 2}, Total: 6, InTransit: []ledger.InTransit{{Src: 0, Dst: 1, Money: 3}},
		}
		var good, bad ledger.Output
		if err := new(ledger.Ledger).Open(&good, plan, "p", make([]string, 2)); err != nil {
			t.Fatal(err)
		}
		change(&plan)
		if err := new(ledger.Ledger).Open(&bad, plan, "p", make([]string, len(plan.Names))); err == nil || len(bad.Persist) > 0 {
			t.Errorf("%s: %v, %d bytes to persist", what, err, len(bad.Persist))
		}
	}
	var out ledger.Output
	plan := ledger.Plan{Names: []string{"p", "q"}, Balances: []uint64{1, 2}}
	if err := new(ledger.Ledger).Open(&out, plan, "p", make([]string, 2)); err != nil {
		t.Fatal(err)
	}
	nobody := bytes.Clone(out.Persist)
	nobody[len(nobody)-3] = 9 // which of the two the branch is, before its addresses
	for what, events := range map[string][]byte{
		"nobody's": nobody, "a name twice": bytes.Replace(out.Persist, []byte("q"), []byte("p"), 1),
	} {
		if err := new(ledger.Ledger).Replay(events); !errors.Is(err, ledger.ErrEvents) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
