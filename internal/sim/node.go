package sim

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"cutbank/internal/engine"
	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

// node is the process of a branch and its disk. Its turns are those of the loop in internal/branch.
type node struct {
	w    *World
	i    int
	name string
	fs   *simfs.FS

	up      bool
	life    int // events of an earlier life are void
	paused  bool
	waiting []func() // while it is paused
	crashes int
	inRow   int  // crashes in recovery without a start between
	held    bool // stays down: the operator is at work

	journal  *journal.Journal
	engine   *engine.Engine[*port]
	inFlight *engine.Batch[*port]
	since    int64
	ioAt     int64  // when the journal is free again
	phase    string // of the journal
	links    []pair
	latest   int64 // arrival so far, to count what overtakes

	durable *books // what was committed
	sealed  []op   // what is being committed
	pending []op   // what waits for a batch
	unheard bool   // the commit is durable and its effects are not out yet
	logged  []uint64

	directory
}

func newNode(w *World, i int) *node {
	n := &node{w: w, i: i, name: fmt.Sprintf("p%d", i), fs: simfs.New(w.Seed + uint64(i)), durable: newBooks(w.Branches)} //nolint:gosec // an index
	if w.on(EmptyDirectory) {
		n.backups = append(n.backups, backup{n.fs.Clone(), n.durable.clone()})
	}
	return n
}

// after schedules something for this life of the process; while it is paused it waits.
func (n *node) after(d int64, do func()) {
	life := n.life
	var run func()
	run = func() {
		switch {
		case life != n.life || n.w.Violation != nil:
		case n.paused:
			n.waiting = append(n.waiting, run)
		default:
			do()
		}
	}
	n.w.after(d, run)
}

// start recovers and begins the next incarnation, as branch.New and Run do.
func (n *node) start() {
	if n.up || n.held {
		return
	}
	w := n.w
	n.life++
	n.up, n.phase, n.ioAt = true, "recovery", w.now
	n.armRecovery()
	n.journal, _ = journal.Open(n.fs, journal.Config{
		SegmentBytes: w.Segment, ID: uint64(n.i) + 1, Now: func() time.Time { return time.UnixMicro(w.now) }, //nolint:gosec // an index
	})
	n.engine, n.inFlight, n.since = engine.New[*port](), nil, 0
	n.links, n.logged = make([]pair, w.Branches), make([]uint64, w.Branches)
	l := n.engine.Ledger
	fromCheckpoint := false
	err := n.journal.Recover(func(state []byte) error {
		fromCheckpoint = true
		return l.Load(state)
	}, l.Replay)
	if err != nil {
		n.end(err)
		return
	}
	n.since = n.journal.SinceCheckpoint()
	checkRecovered(n)
	if l.Opened() {
		if n.durable.opened && n.durable.balance >= 0 && fromCheckpoint && n.anyUnacknowledged() {
			w.saw(CheckpointRestart)
		}
		n.journal.Break(l.Plan().Broken)
		out := &n.engine.Filling.Output
		l.Start(out)
		if err := n.journal.Commit(out.Persist); err != nil {
			n.end(err)
			return
		}
		out.Reset()
		n.engine.Begin()
		n.linkUp()
	}
	n.fs.Fault, n.fs.ReadFault = simfs.Fault{}, simfs.Fault{}
	n.phase, n.inRow = "", 0
	n.keepBackup()
	w.note("start", n.i, -1, l.Incarnation())
	n.payLater()
}

func (n *node) anyUnacknowledged() bool {
	for p := range n.durable.sent {
		if uint64(len(n.durable.sent[p])) > n.durable.acked[p] {
			return true
		}
	}
	return false
}

func (n *node) linkUp() {
	for p := range n.logged {
		if p != n.i {
			n.logged[p] = n.engine.Ledger.Sent(p)
		}
	}
	for p := range n.i {
		n.dialLater(p)
	}
}

// end is the death of the process by an error of its journal: the fault was a crash, or the process gave
// up and another is started.
func (n *node) end(err error) {
	var refused *journal.RefusedError
	switch {
	case errors.As(err, &refused) || errors.Is(err, ledger.ErrEvents):
		n.w.violate("durability", "%s can't recover: %v", n.name, err)
	case n.fs.Crashed():
		f := CrashAtIO
		switch n.phase {
		case "recovery":
			f = CrashInRecovery
			if n.inRow++; n.inRow == 2 {
				n.w.saw(RecoveryTwice)
			}
		case "checkpoint":
			n.w.saw(InsideCheckpoint)
		case "prepare":
			n.w.saw(InsideSegment)
		}
		n.w.fault(f, n.i)
		n.crash(n.loss())
	default:
		switch {
		case errors.Is(err, errSync):
			n.w.fault(FsyncError, n.i)
		case errors.Is(err, syscall.ENOSPC):
			n.w.fault(DiskFull, n.i)
		default:
			n.w.fault(WriteError, n.i)
		}
		n.crash(simfs.Kill)
	}
}

// loss is what a crash does to what is not synced.
func (n *node) loss() simfs.Loss {
	switch n.w.Losses[n.w.random.IntN(len(n.w.Losses))] {
	case Lose:
		n.w.fault(LostUnsynced, n.i)
		return simfs.Drop
	case Tear:
		n.w.fault(TornUnsynced, n.i)
		return simfs.Tear
	default:
		return simfs.Kill
	}
}

// crash ends the process. What was not durable never happened; the commit under way may have.
func (n *node) crash(loss simfs.Loss) {
	w := n.w
	w.note("crash", n.i, -1, uint64(loss))
	if n.unheard {
		w.saw(UnheardCommit)
	}
	n.life++
	n.up, n.paused, n.waiting, n.unheard, n.pending = false, false, nil, false, nil
	n.crashes++
	n.fs.Restart(loss)
	w.breakAll(n.i)
	w.after(1000+w.upTo(500_000), n.start)
}

// ---- the loop ----

// turn takes an input and does what the loop does after it.
func (n *node) turn(input func()) {
	input()
	n.absorb()
	n.commit()
}

// absorb notes the items that the last step put on channels: markers, since payments are noted where
// they are decided.
func (n *node) absorb() {
	l := n.engine.Ledger
	for _, p := range n.engine.Filling.Channels {
		for n.logged[p] < l.Sent(p) {
			n.logged[p]++
			item := l.Item(p, n.logged[p])
			if item.Marker == 0 {
				n.w.violate("ledger", "%s sent %d to p%d, and nobody had decided it", n.name, item.Money, p)
				return
			}
			n.pending = append(n.pending, op{kind: opSend, peer: p, item: item})
		}
	}
	if l.Opened() && l.SnapshotsInProgress() > 1 {
		n.w.saw(Overlapping)
	}
}

// commit is branch.commit.
func (n *node) commit() {
	for n.inFlight == nil && n.engine.Filling.Due() {
		n.inFlight = n.engine.Seal()
		n.absorbSealed()
		if len(n.inFlight.Persist) > 0 {
			n.inFlight.Persist = ledger.Stamp(n.inFlight.Persist, n.w.now)
			var checkpoint []byte
			if n.since >= n.w.Checkpoint {
				checkpoint = n.engine.Ledger.Checkpoint(nil)
			}
			n.schedule(n.w.upTo(n.w.Sync), func() { n.write(checkpoint) })
			return
		}
		n.letOut()
	}
}

// absorbSealed takes the steps of the batch that was sealed, with what sealing itself added.
func (n *node) absorbSealed() {
	for _, p := range n.inFlight.Channels {
		for n.logged[p] < n.engine.Ledger.Sent(p) {
			n.logged[p]++
			n.pending = append(n.pending, op{kind: opSend, peer: p, item: n.engine.Ledger.Item(p, n.logged[p])})
		}
	}
	n.sealed, n.pending = n.pending, nil
}

// schedule gives work to the journal, which does one thing after the other.
func (n *node) schedule(d int64, work func()) {
	n.ioAt = max(n.w.now+d, n.ioAt)
	n.after(n.ioAt-n.w.now, work)
}

// write is branch.journalLoop: commit, say so, then the checkpoint and the next segment.
func (n *node) write(checkpoint []byte) {
	n.phase = "commit"
	if err := n.journal.Commit(n.inFlight.Persist); err != nil {
		n.end(err)
		return
	}
	since := n.journal.SinceCheckpoint()
	if checkpoint != nil {
		since = 0
	}
	n.w.note("durable", n.i, -1, uint64(len(n.sealed)))
	n.committed()
	n.unheard = true
	n.after(n.w.upTo(n.w.Sync/4), func() {
		n.since, n.unheard = since, false
		n.turn(n.letOut)
	})
	n.schedule(n.w.upTo(n.w.Sync), func() {
		n.phase = "checkpoint"
		if checkpoint != nil {
			if err := n.journal.Checkpoint(checkpoint); err != nil {
				n.end(err)
				return
			}
		}
		n.phase = "prepare"
		if err := n.journal.Prepare(); err != nil && n.fs.Crashed() {
			n.end(err)
			return
		}
		n.phase = ""
	})
}

// committed makes the steps of the batch part of the durable books, under the checkers' eyes.
func (n *node) committed() {
	ops := n.sealed
	n.sealed = nil
	for _, o := range ops {
		n.durable.apply(o)
		checkCommitted(n, o)
	}
}

func (n *node) letOut() {
	n.engine.Release(n.inFlight)
	n.inFlight = nil
}

// ---- inputs ----

// deliver is what a reader hands to the loop.
func (n *node) deliver(p *port, d link.Delivery) {
	l := n.engine.Ledger
	if n.w.trace && d.Position != nil {
		n.w.say("%s p%d  position %+v, here %+v", n.name, p.peer, *d.Position, l.Position(p.peer))
	}
	received, acked := l.Received(p.peer), l.Acknowledged(p.peer)
	err := n.engine.Deliver(p.peer, p, d, n.w.now)
	if err != nil {
		n.w.note("link broken: "+err.Error(), n.i, p.peer, 0)
		if errors.Is(err, ledger.ErrFence) {
			n.w.refused(n, n.w.nodes[p.peer])
		}
	}
	if pos := d.Position; pos != nil && err == nil {
		n.owesMarker(p.peer, pos.Received)
	}
	taken := int(l.Received(p.peer) - received) //nolint:gosec // at most the items
	items := d.Items[max(0, len(d.Items)-taken):]
	if err != nil {
		items = d.Items[:min(taken, len(d.Items))] // those before the bad one
	}
	for _, item := range items {
		n.pending = append(n.pending, op{kind: opReceive, peer: p.peer, item: item})
	}
	if a := l.Acknowledged(p.peer); a != acked {
		n.pending = append(n.pending, op{kind: opAck, peer: p.peer, n: a})
	}
	if taken > 0 {
		n.w.note("took", n.i, p.peer, uint64(taken))
	}
	d.Recycle()
}

// owesMarker looks whether a marker is to be sent on a new connection.
func (n *node) owesMarker(peer int, received uint64) {
	l := n.engine.Ledger
	for k := max(received, l.Acknowledged(peer)) + 1; k <= l.Sent(peer); k++ {
		if l.Item(peer, k).Marker != 0 {
			n.w.saw(ResentMarker)
		}
	}
}

// payLater makes a transfer after a random time, and again.
func (n *node) payLater() {
	n.after(n.w.upTo(n.w.PayMillis*1000), func() {
		if n.w.calm {
			return
		}
		if n.engine.Paying() {
			n.turn(n.pay)
		}
		n.payLater()
	})
}

func (n *node) pay() {
	w, l := n.w, n.engine.Ledger
	to := (n.i + 1 + w.random.IntN(w.Branches-1)) % w.Branches
	item := ledger.Item{Money: uint64(1 + w.upTo(share/20)), ID: w.nextID + 1} //nolint:gosec // positive
	if l.Transfer(&n.engine.Filling.Output, to, item.Money, item.ID, engine.Window) != nil {
		return
	}
	w.nextID++
	w.Transfers++
	n.logged[to]++
	n.pending = append(n.pending, op{kind: opSend, peer: to, item: item})
	w.note("pays", n.i, to, item.Money)
}

// request is a controller's message: branch.answer, without keys.
func (n *node) request(c *client, m *bankpb.BranchMessage) {
	e := n.engine
	switch r := m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_InitBranch:
		opened, err := e.Open(n.name, r.InitBranch)
		if err != nil {
			e.Answer(c, engine.ErrorMessage(bankpb.Error_OTHER_BANK, err.Error(), 0))
			return
		}
		if opened {
			n.journal.Break(e.Ledger.Plan().Broken)
			n.pending = append(n.pending, op{kind: opOpen, n: e.Ledger.Balance()})
			n.linkUp()
		}
		e.Answer(c, engine.StatusMessage(e.Status()))
	case *bankpb.BranchMessage_GetStatus:
		if !e.Ledger.Opened() {
			e.Answer(c, engine.ErrorMessage(bankpb.Error_NOT_OPEN, "not open yet", 0))
			return
		}
		e.Answer(c, engine.StatusMessage(e.Status()))
	case *bankpb.BranchMessage_InitSnapshot:
		if e.Ledger.Opened() {
			e.Initiate(c, r.InitSnapshot.GetSnapshotId(), n.w.now)
		}
	case *bankpb.BranchMessage_RetrieveSnapshot:
		if e.Ledger.Opened() {
			if r, _ := e.Ledger.Snapshot(r.RetrieveSnapshot.GetSnapshotId()); r == nil || !r.Complete() {
				n.w.saw(WaitedRetrieve)
			}
			e.Retrieve(c, r.RetrieveSnapshot.GetSnapshotId())
		}
	}
}
