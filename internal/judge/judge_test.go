package judge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A bank of this test: branches of the assignment, channels with a proxy in the middle, and a scheduler
// that moves one thing at a time, in any order that such a bank can have. A mutant breaks one rule.

type simMessage struct {
	marker    bool
	money, id uint64
}

type simChannel struct{ sent, held, passed []simMessage } // ahead of the proxy, in it, behind it

type simSnapshot struct {
	balance   uint64
	states    []uint64
	recording []bool
	left      int
	waiting   []int // channels that a late mutant still owes its marker
	answered  bool
}

type simBranch struct {
	balance, initial uint64
	snapshots        map[uint64]*simSnapshot
}

type sim struct {
	mutant   string
	random   *rand.Rand
	n        int
	branches []simBranch
	channels [][]simChannel
	requests [][]uint64 // InitSnapshot on its way to each branch
	judge    *Judge
	us       int64
}

func newSim(n int, mutant string, seed uint64) *sim {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("b%d", n-i) // not in alphabetical order
	}
	s := &sim{
		mutant: mutant, random: rand.New(rand.NewPCG(seed, 7)), n: n, branches: make([]simBranch, n),
		channels: make([][]simChannel, n), requests: make([][]uint64, n), judge: New(names, uint64(n)*1000),
	}
	for i := range n {
		s.channels[i] = make([]simChannel, n)
		s.branches[i] = simBranch{balance: 1000, initial: 1000, snapshots: map[uint64]*simSnapshot{}}
		s.step(Event{Kind: Init, From: Controller, To: i, Balance: 1000})
	}
	return s
}

func (s *sim) step(e Event) {
	s.us++
	e.AtUS = s.us
	s.judge.Step(e)
}

func (s *sim) send(from, to int, m simMessage) {
	c := &s.channels[from][to]
	c.sent = append(c.sent, m)
}

func (s *sim) pay(from int) {
	if s.mutant == "idle" || s.mutant == "one does not pay" && from == 0 {
		return
	}
	b := &s.branches[from]
	base := b.initial
	if s.mutant == "current balance" {
		base = 2 * b.balance
	}
	money := max(1, base/100+s.random.Uint64N(base/20-base/100+1))
	if b.balance < money && s.mutant != "negative" {
		return
	}
	if s.mutant == "negative" {
		money = 50
	}
	to := (from + 1 + s.random.IntN(s.n-1)) % s.n
	b.balance -= money
	s.send(from, to, simMessage{money: money})
}

func (s *sim) record(i int, id uint64, first int) {
	b := &s.branches[i]
	if b.snapshots[id] != nil {
		return
	}
	shot := &simSnapshot{balance: b.balance, states: make([]uint64, s.n), recording: make([]bool, s.n), left: s.n - 1}
	b.snapshots[id] = shot
	for k := range s.n {
		if k == i {
			continue
		}
		shot.recording[k] = true
		switch {
		case s.mutant == "late":
			shot.waiting = append(shot.waiting, k)
		case s.skips(id) && k == (i+1)%s.n:
		default:
			s.send(i, k, simMessage{marker: true, id: id})
		}
		if s.mutant == "twice on a channel" && first < 0 {
			s.send(i, k, simMessage{marker: true, id: id})
		}
	}
	if s.mutant == "wrong id" {
		s.send(i, (i+1)%s.n, simMessage{marker: true, id: id + 100})
	}
}

// skips tells whether each branch keeps one marker of a snapshot to itself, and waits for none on that channel.
func (s *sim) skips(id uint64) bool {
	return s.mutant == "skips a marker" && id == 1 || s.mutant == "never a marker there"
}

// receive delivers the next message of a channel.
func (s *sim) receive(from, to int) {
	c, b := &s.channels[from][to], &s.branches[to]
	m := c.passed[0]
	c.passed = c.passed[1:]
	if !m.marker {
		b.balance += m.money
		for _, shot := range b.snapshots {
			if shot.recording[from] && (s.mutant != "not recorded" || m.money%3 != 0) {
				shot.states[from] += m.money
				if s.mutant == "counted twice" {
					shot.balance += m.money
				}
			}
		}
		return
	}
	first := b.snapshots[m.id] == nil
	s.record(to, m.id, from)
	if shot := b.snapshots[m.id]; shot.recording[from] {
		shot.recording[from] = s.mutant == "never stops" || s.mutant == "first is recorded" && first // until it answers
		shot.left--
	}
}

func (s *sim) answers(i int) {
	for id, shot := range s.branches[i].snapshots {
		left := shot.left
		if s.skips(id) {
			left-- // the one that was never sent
		}
		if shot.answered || left > 0 || len(shot.waiting) > 0 {
			continue
		}
		shot.answered = true
		shot.recording = make([]bool, s.n)
		var states []uint64
		for k, money := range shot.states {
			if k != i && (money > 0 || s.mutant != "zeros left out") || s.mutant == "itself too" {
				states = append(states, money)
			}
		}
		if s.mutant == "reversed" {
			slices.Reverse(states)
		}
		balance := shot.balance
		if s.mutant == "balance of now" {
			balance = s.branches[i].balance
		}
		s.step(Event{Kind: Answer, From: i, To: Controller, ID: id, Balance: balance, States: states})
	}
}

// move does one random thing.
func (s *sim) move(paying bool) {
	i, k := s.random.IntN(s.n), s.random.IntN(s.n-1)
	k = (i + 1 + k) % s.n
	c := &s.channels[i][k]
	e := Event{Conn: 1 + min(i, k)*s.n + max(i, k), From: i, To: k}
	event := func(kind Kind, m simMessage) {
		e.Kind, e.Marker, e.Money, e.ID = kind, m.marker, m.money, m.id
		if s.mutant == "two connections" && i < k {
			e.Conn += 100
		}
		s.step(e)
	}
	switch what := s.random.IntN(12); {
	case what < 2 && paying:
		s.pay(i)
	case what < 5 && len(c.sent) > 0:
		event(Sent, c.sent[0])
		c.held, c.sent = append(c.held, c.sent[0]), c.sent[1:]
	case what < 8 && len(c.held) > 0:
		event(Passed, c.held[0])
		c.passed, c.held = append(c.passed, c.held[0]), c.held[1:]
	case what < 10 && len(c.passed) > 0:
		s.receive(i, k)
	case what == 10 && len(s.requests[i]) > 0:
		s.record(i, s.requests[i][0], -1)
		s.requests[i] = s.requests[i][1:]
	case what == 11:
		s.answers(i)
		for id, shot := range s.branches[i].snapshots {
			for _, to := range shot.waiting {
				s.send(i, to, simMessage{marker: true, id: id})
			}
			shot.waiting = nil
		}
	}
}

// run takes snapshots, some of them at once, and lets everything arrive in the end.
func (s *sim) run(snapshots int) Report {
	for id := 1; id <= snapshots; id++ {
		for range 100 + s.random.IntN(800) {
			s.move(true)
		}
		i := s.random.IntN(s.n)
		s.step(Event{Kind: Snapshot, From: Controller, To: i, ID: uint64(id)})
		s.requests[i] = append(s.requests[i], uint64(id))
	}
	s.step(Event{Kind: Stopping})
	for range 50_000 {
		s.move(false)
		if s.judge.complete == snapshots {
			break
		}
	}
	return s.judge.Report()
}

const simSeeds = 120

// TestNoFalseVerdict: a bank that keeps the rules is never found to break one, however its messages are
// delayed and wherever its proxies look.
func TestNoFalseVerdict(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(simSeeds) {
		r := newSim(2+int(seed%4), "", seed).run(6)
		if r.Snapshots != 6 {
			t.Fatalf("seed %d: %d snapshots complete", seed, r.Snapshots)
		}
		for _, f := range r.Rules {
			if f.Verdict == Broken {
				t.Errorf("seed %d: %s: %s", seed, f.Rule, f.Evidence)
			}
			if f.Verdict == Kept {
				seen[f.Rule]++
			}
		}
	}
	for rule := range numRules {
		if rule != Framing && seen[rule.Name()] < simSeeds*9/10 {
			t.Errorf("%s was kept in %d of %d runs", rule.Name(), seen[rule.Name()], simSeeds)
		}
	}
}

// TestTooLittle: what a branch has not shown, and what empty channels can't show, is not kept.
func TestTooLittle(t *testing.T) {
	verdicts := func(r Report) map[string]string {
		all := map[string]string{}
		for _, f := range r.Rules {
			all[f.Rule] = f.Verdict
		}
		return all
	}
	if r := newSim(3, "", 1).run(6); r.Verdict != Kept || len(r.NotSeen()) > 0 {
		t.Errorf("a whole run is %s, without %v", r.Verdict, r.NotSeen())
	}
	if r := New([]string{"a", "b"}, 2000).Report(); r.Verdict != NotSeen || len(r.NotSeen()) != int(numRules) {
		t.Errorf("nothing at all is %s, without %v", r.Verdict, r.NotSeen())
	}
	s := newSim(3, "", 1)
	s.mutant = "idle"
	quiet := verdicts(s.run(3))
	for _, rule := range []Rule{Start, Amount, Negative, ChannelState, Order} {
		if quiet[rule.Name()] != NotSeen {
			t.Errorf("%s is %s where nobody pays", rule.Name(), quiet[rule.Name()])
		}
	}
	s = newSim(3, "", 1)
	s.mutant = "one does not pay"
	r := s.run(6)
	for _, f := range r.Rules {
		if f.Rule == Amount.Name() && (f.Verdict != NotSeen || f.Why != "no transfer was seen of b3" || f.Checks == 0) {
			t.Errorf("%+v", f)
		}
	}
	if r.Verdict != NotSeen || !strings.Contains(r.String(), "not seen, in 6 snapshots: too little was seen") {
		t.Errorf("%s", r)
	}
}

// TestMutants: each wrong branch is found out, and for the rule that it breaks.
func TestMutants(t *testing.T) {
	for mutant, want := range map[string]string{
		"late":                 "markers",
		"counted twice":        "books",
		"balance of now":       "books",
		"reversed":             "order",
		"zeros left out":       "order",
		"itself too":           "order",
		"not recorded":         "channel-state books",
		"never stops":          "channel-state books first-marker",
		"first is recorded":    "channel-state books first-marker",
		"current balance":      "amount",
		"negative":             "negative",
		"twice on a channel":   "markers",
		"skips a marker":       "markers",
		"never a marker there": "markers",
		"wrong id":             "ids",
		"two connections":      "connection",
	} {
		t.Run(mutant, func(t *testing.T) {
			found := map[string]int{}
			const seeds = simSeeds / 10
			for seed := range uint64(seeds) {
				s := newSim(4, mutant, seed)
				snapshots := 6
				if mutant == "never a marker there" {
					snapshots = 20 // only much money shows it
				}
				for _, rule := range s.run(snapshots).Broken() {
					if rule != "sum" { // follows
						found[rule]++
					}
				}
			}
			hits := 0
			for rule, n := range found {
				if !strings.Contains(want, rule) {
					t.Errorf("%s is found broken in %d of %d runs", rule, n, seeds)
				}
				hits = max(hits, n)
			}
			if want != "" && hits < seeds/2 {
				t.Errorf("found in %d of %d runs: %v", hits, seeds, found)
			}
		})
	}
}

// TestTail: so many items of a channel are kept, and so many transfers ahead of a marker; what is beyond can't show
// that a state is wrong.
func TestTail(t *testing.T) {
	for n, lost := range map[int]bool{maxTail: false, maxTail + 1: true} {
		j := New([]string{"a", "b"}, 2000)
		for range n {
			j.Step(Event{Kind: Sent, Conn: 1, From: 0, To: 1, Money: 10})
		}
		if got := j.channels[0][1].lost; got != lost {
			t.Errorf("%d items that wait: lost %v", n, got)
		}
	}
	for n, fits := range map[int]bool{maxShown: false, maxShown + 1: true} {
		j := New([]string{"a", "b"}, 2000)
		j.Step(Event{Kind: Snapshot, From: Controller, To: 0, ID: 1})
		s := j.snapshots[1]
		for range n {
			j.Step(Event{Kind: Sent, Conn: 1, From: 0, To: 1, Money: 10})
			j.Step(Event{Kind: Passed, Conn: 1, From: 0, To: 1, Money: 10})
		}
		j.Step(Event{Kind: Sent, Conn: 1, From: 0, To: 1, Marker: true, ID: 1})
		j.Step(Event{Kind: Passed, Conn: 1, From: 0, To: 1, Marker: true, ID: 1})
		if got := s.fits(0, 1, uint64(n)*10+1, 1); got != fits {
			t.Errorf("%d transfers ahead: more than all of them fits: %v", n, got)
		}
	}
}
