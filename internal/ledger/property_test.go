package ledger_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"cutbank/internal/ledger"
	"cutbank/internal/snapshot"
)

// message is what one batch sends on a channel.
type message struct {
	first uint64
	items []ledger.Item
	ack   uint64
}

// node is a branch with its disk: what was flushed survives a crash, nothing else does.
type node struct {
	l          *ledger.Ledger
	out        ledger.Output
	all        [][]byte // every flushed batch
	checkpoint []byte
	since      [][]byte // flushed after the checkpoint
}

// world is a bank over FIFO channels, with the test's own arithmetic beside it.
type world struct {
	pick    func(n int) int
	total   uint64
	nodes   []*node
	queue   [][][]message                         // by sender and receiver
	cursor  [][]uint64                            // items put on the connection
	up      [][]bool                              // symmetric
	lastID  uint64                                // snapshots asked for
	parts   map[uint64]map[int]snapshot.Recording // durable completions
	breakIt func(items []ledger.Item) []ledger.Item
}

func newWorld(n int, pick func(int) int) (*world, error) {
	w := &world{pick: pick, parts: make(map[uint64]map[int]snapshot.Recording)}
	plan := ledger.Plan{BankID: ledger.BankID{7}}
	addresses := make([]string, n)
	for i := range n {
		plan.Names = append(plan.Names, fmt.Sprintf("b%d", i+1))
		plan.Balances = append(plan.Balances, 100)
		w.total += 100
	}
	plan.InTransit = []ledger.InTransit{{Src: 0, Dst: 1, Money: 13}}
	w.total += 13
	plan.Total = w.total
	for i := range n {
		w.queue = append(w.queue, make([][]message, n))
		w.cursor = append(w.cursor, make([]uint64, n))
		w.up = append(w.up, make([]bool, n))
		w.nodes = append(w.nodes, &node{l: new(ledger.Ledger)})
		if err := w.nodes[i].l.Open(&w.nodes[i].out, plan, plan.Names[i], addresses); err != nil {
			return nil, err
		}
		w.nodes[i].l.Start(&w.nodes[i].out)
	}
	for i := range n {
		if err := w.flush(i); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// flush makes the batch durable and lets its effects go.
func (w *world) flush(i int) error {
	nd := w.nodes[i]
	if len(nd.out.Persist) > 0 {
		nd.all = append(nd.all, slices.Clone(nd.out.Persist))
		nd.since = append(nd.since, slices.Clone(nd.out.Persist))
	}
	for _, id := range nd.out.Completed {
		if w.parts[id] == nil {
			w.parts[id] = make(map[int]snapshot.Recording)
		}
		if _, twice := w.parts[id][i]; twice {
			return fmt.Errorf("I6: snapshot %d completed twice at %d", id, i)
		}
		r, _ := nd.l.Snapshot(id)
		c := *r
		c.Channels = slices.Clone(r.Channels)
		w.parts[id][i] = c
	}
	for _, j := range nd.out.Channels {
		if w.up[i][j] {
			w.send(i, j)
		}
	}
	nd.out.Reset()
	return nil
}

func (w *world) send(i, j int) {
	l := w.nodes[i].l
	m := message{first: w.cursor[i][j] + 1, ack: l.Received(j)}
	for n := m.first; n <= l.Sent(j); n++ {
		m.items = append(m.items, l.Item(j, n))
	}
	w.cursor[i][j] = l.Sent(j)
	w.queue[i][j] = append(w.queue[i][j], m)
}

// deliver takes the oldest message of a channel. A broken transport alters the items and then
// numbers them as the receiver expects, as a transport without numbers would.
func (w *world) deliver(i, j int) error {
	if len(w.queue[i][j]) == 0 {
		return nil
	}
	m, to := w.queue[i][j][0], w.nodes[j]
	w.queue[i][j] = w.queue[i][j][1:]
	if w.breakIt != nil {
		m.items, m.first = w.breakIt(m.items), to.l.Received(i)+1
	}
	if err := to.l.Receive(&to.out, i, m.first, m.items, 1); err != nil {
		return err
	}
	return to.l.Acknowledge(&to.out, i, m.ack)
}

func (w *world) cut(i, j int) {
	w.up[i][j], w.up[j][i] = false, false
	w.queue[i][j], w.queue[j][i] = nil, nil
}

func (w *world) connect(i, j int) error {
	if w.up[i][j] {
		return nil
	}
	if err := w.flush(i); err != nil {
		return err
	}
	if err := w.flush(j); err != nil {
		return err
	}
	pi, pj := w.nodes[i].l.Position(j), w.nodes[j].l.Position(i)
	for _, e := range []struct {
		me, peer int
		theirs   ledger.Position
	}{{i, j, pj}, {j, i, pi}} {
		if err := w.nodes[e.me].l.Verify(e.peer, e.theirs); err != nil {
			return err
		}
		w.cursor[e.me][e.peer] = e.theirs.Received
		if err := w.nodes[e.me].l.Acknowledge(&w.nodes[e.me].out, e.peer, e.theirs.Received); err != nil {
			return err
		}
		w.send(e.me, e.peer)
	}
	w.up[i][j], w.up[j][i] = true, true
	return nil
}

// crash loses what was not flushed and rebuilds the books in both ways.
func (w *world) crash(i int) error {
	nd := w.nodes[i]
	before := nd.l.Checkpoint(nil)
	clean := len(nd.out.Persist) == 0
	for j := range w.nodes {
		w.cut(i, j)
	}
	a, b := new(ledger.Ledger), new(ledger.Ledger)
	for _, batch := range nd.all {
		if err := a.Replay(batch); err != nil {
			return err
		}
	}
	if nd.checkpoint != nil {
		if err := b.Load(nd.checkpoint); err != nil {
			return err
		}
	}
	for _, batch := range nd.since {
		if err := b.Replay(batch); err != nil {
			return err
		}
	}
	if !bytes.Equal(a.Checkpoint(nil), b.Checkpoint(nil)) {
		return fmt.Errorf("branch %d: events alone and checkpoint with events differ", i)
	}
	if clean && !bytes.Equal(a.Checkpoint(nil), before) {
		return fmt.Errorf("branch %d: the rebuilt books differ from the running ones", i)
	}
	nd.l = b
	nd.out.Reset()
	nd.l.Start(&nd.out)
	return w.flush(i)
}

func (w *world) step() error {
	n := len(w.nodes)
	i := w.pick(n)
	j := (i + 1 + w.pick(n-1)) % n
	nd := w.nodes[i]
	switch w.pick(12) {
	case 0, 1, 2:
		_ = nd.l.Transfer(&nd.out, j, 1+uint64(w.pick(40)), uint64(w.pick(3)), 8) // may be short; some have a name
	case 3, 4, 5:
		return w.deliver(i, j)
	case 6, 7:
		return w.flush(i)
	case 8:
		w.lastID++
		return nd.l.Initiate(&nd.out, w.lastID, 1)
	case 9:
		return w.connect(i, j)
	case 10:
		if w.pick(2) == 0 {
			w.cut(i, j)
			return nil
		}
		return w.crash(i)
	case 11:
		if err := w.flush(i); err != nil {
			return err
		}
		nd.checkpoint, nd.since = nd.l.Checkpoint(nil), nil
	}
	return nil
}

// drain heals everything and delivers until nothing moves.
func (w *world) drain() error {
	for i := range w.nodes {
		for j := range i {
			if err := w.connect(i, j); err != nil {
				return err
			}
		}
	}
	for range 1000 {
		moved := false
		for i := range w.nodes {
			if err := w.flush(i); err != nil {
				return err
			}
			for j := range w.nodes {
				for i != j && len(w.queue[i][j]) > 0 {
					moved = true
					if err := w.deliver(i, j); err != nil {
						return err
					}
				}
			}
		}
		if !moved {
			return w.checkDrained()
		}
	}
	return fmt.Errorf("I4: still moving")
}

// checkNow is I5.
func (w *world) checkNow() error {
	for i, nd := range w.nodes {
		if nd.l.Balance() > w.total {
			return fmt.Errorf("I5: balance of %d is %d", i, int64(nd.l.Balance()))
		}
	}
	return nil
}

// checkDrained is I4, then I1, I2 and I6 of each snapshot.
func (w *world) checkDrained() error {
	var sum uint64
	for i, nd := range w.nodes {
		sum += nd.l.Balance()
		if k := nd.l.SnapshotsInProgress(); k != 0 {
			return fmt.Errorf("I4: %d snapshots in progress at %d", k, i)
		}
		for j := range w.nodes {
			if i != j && nd.l.Unacknowledged(j) != 0 {
				return fmt.Errorf("I4: %d items left for %d at %d", nd.l.Unacknowledged(j), j, i)
			}
		}
	}
	if sum != w.total {
		return fmt.Errorf("I4: balances are %d of %d", sum, w.total)
	}
	for id, parts := range w.parts {
		if err := w.checkSnapshot(id, parts); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) checkSnapshot(id uint64, parts map[int]snapshot.Recording) error {
	if len(parts) != len(w.nodes) {
		return fmt.Errorf("I4: snapshot %d has %d parts", id, len(parts))
	}
	var sum uint64
	for to := range parts {
		sum += parts[to].Balance
		for from := range parts {
			if from == to {
				continue
			}
			sent, c := parts[from].Channels[to].Sent, parts[to].Channels[from]
			sum += c.State.Money
			if c.State.Money+c.Received.Money != sent.Money || c.State.Count+c.Received.Count != sent.Count {
				return fmt.Errorf("I2: snapshot %d, %d->%d: sent %v, received %v, in transit %v",
					id, from, to, sent, c.Received, c.State)
			}
		}
		if kept, _ := w.nodes[to].l.Snapshot(id); kept != nil {
			part := parts[to]
			if d := cmp.Diff(&part, kept, cmpopts.IgnoreUnexported(snapshot.Recording{})); d != "" {
				return fmt.Errorf("I6: snapshot %d changed at %d: %s", id, to, d)
			}
		}
	}
	if sum != w.total {
		return fmt.Errorf("I1: snapshot %d is %d of %d", id, sum, w.total)
	}
	return nil
}

func campaign(n, steps int, pick func(int) int, breakIt func([]ledger.Item) []ledger.Item) (int, error) {
	w, err := newWorld(n, pick)
	if err != nil {
		return 0, err
	}
	w.breakIt = breakIt
	for range steps {
		if err := w.step(); err != nil {
			return 0, err
		}
		if err := w.checkNow(); err != nil {
			return 0, err
		}
	}
	return len(w.parts), w.drain()
}

func TestInterleavings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(t, "branches")
		steps := rapid.IntRange(0, 250).Draw(t, "steps")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		if _, err := campaign(n, steps, r.IntN, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBrokenTransport shows that the checkers can fail: each defect is found in most runs.
func TestBrokenTransport(t *testing.T) {
	for name, breakIt := range map[string]func(items []ledger.Item) []ledger.Item{
		"drops":    func(items []ledger.Item) []ledger.Item { return items[1:] },
		"doubles":  func(items []ledger.Item) []ledger.Item { return slices.Insert(items, 0, items[0]) },
		"reorders": func(items []ledger.Item) []ledger.Item { slices.Reverse(items); return items },
		"alters": func(items []ledger.Item) []ledger.Item {
			if items[0].Money > 1 {
				items[0].Money--
			}
			return items
		},
	} {
		t.Run(name, func(t *testing.T) {
			caught := 0
			for seed := range uint64(40) {
				r := rand.New(rand.NewPCG(seed, 1))
				_, err := campaign(3, 250, r.IntN, func(items []ledger.Item) []ledger.Item {
					if len(items) > 0 && r.IntN(4) == 0 {
						return breakIt(items)
					}
					return items
				})
				if err != nil {
					caught++
				}
			}
			if caught < 20 {
				t.Errorf("found in %d runs of 40", caught)
			}
		})
	}
	snapshots := 0
	for seed := range uint64(40) {
		k, err := campaign(3, 250, rand.New(rand.NewPCG(seed, 1)).IntN, nil)
		if err != nil {
			t.Fatalf("without a defect, seed %d: %v", seed, err)
		}
		snapshots += k
	}
	if snapshots < 100 {
		t.Errorf("only %d snapshots had a part completed before the end", snapshots)
	}
}
