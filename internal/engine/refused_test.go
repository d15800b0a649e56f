package engine_test

import (
	"errors"
	"strings"
	"testing"

	"cutbank/internal/engine"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/rules"
	"cutbank/proto/bankpb"
)

// TestRefusedBanks: what a branch is not opened with, and that nothing is left of it.
func TestRefusedBanks(t *testing.T) {
	good := func() *bankpb.InitBranch {
		return &bankpb.InitBranch{
			AllBranches: []*bankpb.InitBranch_Branch{{Name: "a", Ip: "::1", Port: 9001}, {Name: "b", Ip: "::1", Port: 9002}},
			Plan: &bankpb.Plan{
				BankId: make([]byte, 16), Key: make([]byte, 32), Total: 6, Balances: []uint64{1, 2},
				InTransit: []*bankpb.InTransit{{Src: 0, Dst: 1, Money: 3}},
			},
		}
	}
	for want, change := range map[string]func(i *bankpb.InitBranch){
		"2 to 1024":                  func(i *bankpb.InitBranch) { i.AllBranches = make([]*bankpb.InitBranch_Branch, 1025) },
		"no address":                 func(i *bankpb.InitBranch) { i.AllBranches[1].Port = 0 },
		"a bank id of 16 bytes":      func(i *bankpb.InitBranch) { i.Plan.BankId = nil },
		"no rule":                    func(i *bankpb.InitBranch) { i.Plan.BrokenRule = "none-of-them" },
		"not in the roster":          func(i *bankpb.InitBranch) { i.AllBranches[0].Name = "x" },
		"started with --break":       func(i *bankpb.InitBranch) { i.Plan.BrokenRule = "" },
		"already belongs to bank":    nil,
		"the total is 7":             func(i *bankpb.InitBranch) { i.Plan.Total = 7 },
		"3 balances and 2 addresses": func(i *bankpb.InitBranch) { i.Plan.Balances = make([]uint64, 3) },
	} {
		e, init := engine.New[*port](), good()
		switch {
		case want == "started with --break":
			e.Broken = rules.NoFsync
		case change == nil:
			if opened, err := e.Open("a", init); !opened || err != nil || e.Ledger.Unacknowledged(1) != 1 {
				t.Fatalf("a good plan: %t, %v", opened, err)
			}
			if opened, err := e.Open("a", init); opened || err != nil {
				t.Errorf("the same again: %t, %v", opened, err)
			}
			init = good()
			init.Plan.Key[0]++
		}
		if change != nil {
			change(init)
		}
		if opened, err := e.Open("a", init); opened || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: opened %t, %v", want, opened, err)
		}
		if change != nil && (e.Ledger.Opened() || !e.Filling.Empty()) {
			t.Errorf("%s: something is left of it", want)
		}
	}
}

// TestBrokenProtocol: a peer that does not keep to the protocol loses its connection, and nothing of what it
// said is taken.
func TestBrokenProtocol(t *testing.T) {
	up := func(w *world) { w.connect(0, 1); w.settle() }
	for want, test := range map[string]struct {
		before func(w *world)
		say    link.Delivery
	}{
		"a second position":              {up, link.Delivery{Position: &ledger.Position{}}},
		"before they were asked for":     {func(w *world) { w.connect(0, 1) }, link.Delivery{Items: []ledger.Item{{Money: 1}}}},
		"a transfer of 9007199254740992": {up, link.Delivery{Items: []ledger.Item{{Money: 1 << 53}}}},
		"7 items acknowledged, of fewer": {up, link.Delivery{Ack: 7}},
		"1 items acknowledged, of fewer": {func(w *world) { w.connect(0, 1) }, link.Delivery{Ack: 1, Items: []ledger.Item{{Money: 1}}}},
		"a transfer of 0":                {up, link.Delivery{Items: []ledger.Item{{}}}},
	} {
		w := newWorld(t, "a", "b")
		test.before(w)
		w.deliver(0, 1, test.say)
		if len(w.errs) != 1 || !strings.Contains(w.errs[0].Error(), "b does not keep to the protocol") || !strings.Contains(w.errs[0].Error(), want) {
			t.Errorf("%s: %v", want, w.errs)
		}
		if p := w.ports[[2]int{0, 1}]; !errors.Is(p.closed, w.errs[0]) || w.nodes[0].Ledger.Balance() != share {
			t.Errorf("%s: closed by %v, the balance is %d", want, p.closed, w.nodes[0].Ledger.Balance())
		}
	}
	// What the connection brought before it was closed would be numbered as what was not taken.
	w := newWorld(t, "a", "b")
	up(w)
	w.deliver(0, 1, link.Delivery{Ack: 7, Items: []ledger.Item{{Money: 1}}})
	w.deliver(0, 1, link.Delivery{Items: []ledger.Item{{Money: 2}}})
	if got := w.nodes[0].Ledger.Received(1); got != 0 || len(w.errs) != 1 {
		t.Errorf("%d items are taken after one was not: %v", got, w.errs)
	}
	// Ready before the position fits: said too early, and no more than that.
	w = newWorld(t, "a", "b")
	w.connect(0, 1)
	w.deliver(0, 1, link.Delivery{Ready: true})
	if up(w); len(w.errs) != 0 || !w.nodes[0].Paying() {
		t.Errorf("after an early Ready: %v", w.errs)
	}
}

// answers are those that a client got.
type answers struct{ got []*bankpb.BranchMessage }

func (a *answers) Reply(m *bankpb.BranchMessage) { a.got = append(a.got, m) }

// TestRefusedSnapshots: an id that can't be, and one that is forgotten.
func TestRefusedSnapshots(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.connect(0, 1)
	w.settle()
	for id := range uint64(ledger.MaxDone + 1) {
		w.nodes[0].Initiate(nil, id+1, 0)
		w.settle()
	}
	var a answers
	w.nodes[0].Initiate(&a, 0, 0)
	w.nodes[0].Retrieve(&a, 1)
	if n := w.nodes[0].Answers(); n != 2 {
		t.Errorf("%d answers wait to be durable", n)
	}
	w.settle()
	want := []bankpb.Error_Code{bankpb.Error_BAD_REQUEST, bankpb.Error_SNAPSHOT_GONE}
	for i, m := range a.got {
		if m.GetError().GetCode() != want[i] {
			t.Errorf("%d: %v", i, m)
		}
	}
	if len(a.got) != len(want) {
		t.Errorf("%d answers", len(a.got))
	}
}
