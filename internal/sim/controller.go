package sim

import (
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// share is what each branch begins with. It is large so that no two transfers are of the same amount: histories
// that differ in nothing but the names of transfers are one to the fences, and rightly so, but not to the checkers.
const share = 1 << 40

// controller opens the bank and takes snapshots, like internal/controller, over connections that end
// with the branch's process.
type controller struct {
	w       *World
	k       int
	life    int
	clients []*client // by branch
	known   []bool    // branches that told their status
	highest uint64
	asked   []*asked
}

// asked is a snapshot that a controller wants.
type asked struct {
	id        uint64
	initiator int
	has       []bool // by branch
	missing   int
}

// client is a controller's connection to a branch, and the engine's Client.
type client struct {
	c    *controller
	n    *node
	life int // of the controller
	open bool
	toAt int64 // when what was sent last arrives
	byAt int64
}

func newController(w *World, k int) *controller {
	c := &controller{w: w, k: k}
	c.reset()
	w.after(w.upTo(1_000_000), c.snapshotLater)
	return c
}

func (c *controller) reset() {
	c.life++
	c.clients, c.known = make([]*client, c.w.Branches), make([]bool, c.w.Branches)
	c.asked, c.highest = nil, 0
	for i := range c.clients {
		c.connect(i, 0)
	}
}

func (c *controller) restart(i int) {
	c.w.fault(ControllerRestart, i)
	for _, cl := range c.clients {
		if cl != nil && cl.n.up && cl.open {
			cl.n.engine.Forget(cl)
		}
	}
	c.reset()
}

// connect tries until the branch is there, then asks again for everything that it owes.
func (c *controller) connect(i int, wait int64) {
	life := c.life
	c.w.after(wait+c.w.upTo(100_000), func() {
		n := c.w.nodes[i]
		switch {
		case life != c.life:
		case !n.up:
			c.connect(i, 100_000)
		default:
			cl := &client{c: c, n: n, life: c.life, open: true}
			c.clients[i] = cl
			c.send(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: c.w.plan()}})
			for _, a := range c.asked {
				c.ask(a, i)
			}
			c.watch(cl, n.life)
		}
	})
}

// watch notices that the branch's process is another one.
func (c *controller) watch(cl *client, life int) {
	c.w.after(50_000, func() {
		switch {
		case cl.life != c.life:
		case !cl.n.up || cl.n.life != life:
			cl.open = false
			c.connect(cl.n.i, 0)
		default:
			c.watch(cl, life)
		}
	})
}

func (c *controller) send(i int, m *bankpb.BranchMessage) {
	cl := c.clients[i]
	if cl == nil || !cl.open || !cl.n.up {
		return
	}
	frame := wire.Append(nil, m)
	cl.toAt = max(cl.toAt, c.w.now+1+c.w.upTo(c.w.Latency))
	cl.n.after(cl.toAt-c.w.now, func() {
		got := c.w.parse(frame)
		if cl.open && cl.life == c.life {
			cl.n.turn(func() { cl.n.request(cl, got) })
		}
	})
}

// parse takes a frame as the other side's reader would.
func (w *World) parse(frame []byte) *bankpb.BranchMessage {
	m, err := wire.NewReader(&source{frame}, wire.MaxRosterFrame).NextMessage()
	if err != nil {
		panic(err)
	}
	return m
}

// Reply is engine.Client's: what is told here is told for good.
func (cl *client) Reply(m *bankpb.BranchMessage) {
	w, i := cl.c.w, cl.n.i
	if part := m.GetReturnSnapshot().GetLocalSnapshot(); part != nil {
		w.told.part(w, i, part)
	}
	frame := wire.Append(nil, m)
	cl.byAt = max(cl.byAt, w.now+1+w.upTo(w.Latency))
	w.at(cl.byAt, func() {
		if cl.life == cl.c.life && cl.open {
			cl.c.answer(i, w.parse(frame))
		}
	})
}

func (c *controller) answer(i int, m *bankpb.BranchMessage) {
	if s := m.GetStatus_(); s != nil {
		c.known[i], c.highest = true, max(c.highest, s.GetLastSnapshotId())
	}
	if part := m.GetReturnSnapshot().GetLocalSnapshot(); part != nil {
		c.got(part.GetSnapshotId(), i)
	}
	if e := m.GetError(); e.GetCode() == bankpb.Error_SNAPSHOT_GONE || e.GetCode() == bankpb.Error_SNAPSHOT_LIMIT {
		c.drop(e.GetSnapshotId())
	}
}

func (c *controller) got(id uint64, i int) {
	for _, a := range c.asked {
		if a.id == id && !a.has[i] {
			a.has[i] = true
			if a.missing--; a.missing == 0 {
				c.drop(id)
			}
			return
		}
	}
}

func (c *controller) drop(id uint64) {
	for k, a := range c.asked {
		if a.id == id {
			c.asked = append(c.asked[:k:k], c.asked[k+1:]...)
			return
		}
	}
}

// maxAsked is how many snapshots a controller has under way.
const maxAsked = 8

func (c *controller) snapshotLater() {
	w := c.w
	if w.calm {
		return
	}
	ready := len(c.asked) < maxAsked
	for _, k := range c.known {
		ready = ready && k
	}
	if ready {
		c.snapshot()
	}
	w.after(w.SnapMillis*500+w.upTo(w.SnapMillis*1000), c.snapshotLater)
}

func (c *controller) snapshot() {
	w := c.w
	c.highest++
	a := &asked{id: c.highest, initiator: w.random.IntN(w.Branches), has: make([]bool, w.Branches), missing: w.Branches}
	for _, other := range w.controllers {
		for _, b := range other.asked {
			if b.id == a.id && b.initiator != a.initiator {
				w.saw(SameID)
			}
		}
	}
	c.asked = append(c.asked, a)
	w.told.begin(w, a.id, a.initiator)
	w.note("snapshot", a.initiator, -1, a.id)
	for i := range w.nodes {
		c.ask(a, i)
	}
}

// ask sends what a branch has to do for a snapshot: all of it may be sent again and again.
func (c *controller) ask(a *asked, i int) {
	times := 1
	if c.w.on(RepeatedRequest) && !c.w.calm && c.w.chance(4) {
		times = 2
		c.w.fault(RepeatedRequest, i)
	}
	for range times {
		if i == a.initiator {
			c.send(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{
				InitSnapshot: &bankpb.InitSnapshot{SnapshotId: a.id},
			}})
		}
		c.send(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
			RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: a.id},
		}})
	}
}

// plan is that of the bank, the same for all.
func (w *World) plan() *bankpb.InitBranch {
	id := []byte("simulated bank..")
	p := &bankpb.Plan{BankId: id, Key: append(id[:16:16], id...), Total: share * uint64(w.Branches), BrokenRule: w.Broken} //nolint:gosec // positive
	init := &bankpb.InitBranch{Balance: share, Plan: p}
	for _, n := range w.nodes {
		p.Balances = append(p.Balances, share)
		init.AllBranches = append(init.AllBranches, &bankpb.InitBranch_Branch{Name: n.name, Ip: "192.0.2.1", Port: 1})
	}
	return init
}
