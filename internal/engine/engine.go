// Package engine is a branch without goroutines, sockets, clock and randomness: the ledger, the
// barrier after a start, the cursors of each connection, and the batch that waits to be durable. The
// production branch and the simulator both run it.
//
// Inputs (Deliver, Initiate, Retrieve, Open, and the ledger's Transfer on Filling) change the ledger
// and fill a batch. Seal closes the batch; its Persist is to be made durable; Release lets its effects
// out, and nothing else does. At most one sealed batch is under way while the next is being filled.
//
// Not here: bytes on a disk (journal), connections (link), whom to pay and when (branch).
package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/rules"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Window bounds the unacknowledged items of a channel; markers have room beyond it. A branch fits its
// own to the time that transfers take, up to this one.
const Window = 1 << 16

// MaxWaiting bounds the retrieves that wait at a branch for a snapshot to complete.
const MaxWaiting = 4096

// Port is a connection to a peer as the engine sees it: *link.Conn, or the simulator's own.
type Port interface {
	comparable
	Send(frames []byte)
	SendItems(ack, items []byte) // either may be empty
	CloseAfter(frames []byte)
	Close(reason error)
}

// Client is who asked: *branch.Client, or the simulator's own. Reply must not block.
type Client interface {
	Reply(m *bankpb.BranchMessage)
}

// peer is what the engine knows of the link with a peer, beside the ledger.
type peer[P Port] struct {
	conn     P    // the newest proved connection; zero: none
	verified bool // both sides' positions fitted on one connection since this process started
	refused  error

	up      bool   // the peer's position on conn fitted
	ready   bool   // the peer wants items on conn
	next    uint64 // number of the next item to send on conn
	holds   uint64 // what the peer said that it has received, when conn came up
	nextIn  uint64 // number of the next item to come on conn
	acked   uint64 // highest count acknowledged on conn
	durable mark   // what the last durable batch left
}

// mark is how far the two channels with a peer were at the end of a batch.
type mark struct {
	peer           int
	sent, received uint64
}

// Batch is the steps between two commits: what to persist, and what to let out then.
type Batch[P Port] struct {
	ledger.Output
	marks    []mark
	controls []control[P]
	replies  []reply
}

type control[P Port] struct {
	peer  int
	conn  P
	frame []byte
}

type reply struct {
	to Client
	m  *bankpb.BranchMessage
}

// Empty tells that there is nothing to persist and nothing to let out.
func (b *Batch[P]) Empty() bool {
	return len(b.Persist) == 0 && len(b.Channels) == 0 && len(b.controls) == 0 && len(b.replies) == 0
}

// MaxAcks is how many bytes of a batch that nobody awaits are left to wait.
const MaxAcks = 32 << 10

// Due tells that the batch is to be made durable as soon as none before it is under way. One that only
// notes acknowledgements waits for more, and for the end: else each ack would cost a sync of its own.
func (b *Batch[P]) Due() bool {
	return b.Awaited() || len(b.controls) > 0 || len(b.replies) > 0 || len(b.Persist) >= MaxAcks
}

// Engine is one branch; the package comment has its contract. Not safe for concurrent use.
type Engine[P Port] struct {
	Ledger  *ledger.Ledger
	peers   []peer[P]
	barrier int     // peers still to be verified since the start; then transfers and items flow
	early   []early // snapshots that wait for that
	Filling *Batch[P]
	spare   *Batch[P]
	waiting map[uint64][]Client // retrieves of snapshots that are not complete
	waits   int
	frames  []byte
	// Broken is the rule that banks opened by plain clients here do without, and the only one that
	// others may; None says nothing.
	Broken rules.Rule
}

// New is the engine of a branch that belongs to no bank yet.
func New[P Port]() *Engine[P] {
	return &Engine[P]{
		Ledger: new(ledger.Ledger), Filling: new(Batch[P]), spare: new(Batch[P]),
		waiting: make(map[uint64][]Client),
	}
}

// Begin readies the links of a ledger that is open: after Open, and after recovery.
func (e *Engine[P]) Begin() {
	n := len(e.Ledger.Plan().Names)
	e.peers, e.barrier = make([]peer[P], n), n-1
	if e.lacks(rules.NoBarrier) {
		e.barrier = 0
	}
	for i := range e.peers {
		if i != e.Ledger.Self() {
			e.peers[i].durable = mark{i, e.Ledger.Sent(i), e.Ledger.Received(i)}
		}
	}
}

// Answers is how many answers wait for the batch that is being filled.
func (e *Engine[P]) Answers() int { return len(e.Filling.replies) }

// Paying tells that the books were compared with every peer since the start.
func (e *Engine[P]) Paying() bool { return e.Ledger.Opened() && e.barrier == 0 }

// Seal ends the batch that is being filled and starts the next.
func (e *Engine[P]) Seal() *Batch[P] {
	b := e.Filling
	if e.lacks(rules.MarkerOvertaken) {
		e.Ledger.SendOwed(&b.Output)
	}
	for _, p := range b.Channels {
		b.marks = append(b.marks, mark{p, e.Ledger.Sent(p), e.Ledger.Received(p)})
	}
	if len(b.Completed) > 0 { // others may be too old by that: they may never have been started
		for _, id := range slices.Sorted(maps.Keys(e.waiting)) {
			e.answerWaiting(b, id)
		}
	}
	e.Filling, e.spare = e.spare, nil
	if e.Ledger.Plan().Broken != rules.None {
		e.leak(b)
	}
	return b
}

// Release lets the effects of a batch out, now that it is durable.
func (e *Engine[P]) Release(b *Batch[P]) {
	for _, c := range b.controls {
		if e.peers[c.peer].conn == c.conn {
			c.conn.Send(c.frame)
		}
	}
	for _, c := range b.controls {
		e.flush(c.peer) // what waited for the barrier: the peer may have been ready before it fell
	}
	for _, m := range b.marks {
		e.peers[m.peer].durable = m
		e.flush(m.peer)
	}
	for _, r := range b.replies {
		r.to.Reply(r.m)
	}
	b.Reset()
	clear(b.controls)
	clear(b.replies)
	b.marks, b.controls, b.replies = b.marks[:0], b.controls[:0], b.replies[:0]
	e.spare = b
	if e.lacks(rules.MarkersInSeparateBatch) {
		e.Ledger.SendOwed(&e.Filling.Output)
	}
}

// flush sends a peer what is durable and has not been sent on its connection.
func (e *Engine[P]) flush(i int) {
	p := &e.peers[i]
	if !p.up {
		return
	}
	e.frames = e.frames[:0]
	if p.durable.received > p.acked {
		p.acked = p.durable.received
		e.frames = wire.AppendAck(e.frames, p.acked)
	}
	items := len(e.frames)
	if p.ready && e.barrier == 0 {
		for ; p.next <= p.durable.sent; p.next++ {
			e.frames = wire.AppendItem(e.frames, e.Ledger.Item(i, p.next))
		}
	}
	if len(e.frames) > 0 {
		p.conn.SendItems(e.frames[:items], e.frames[items:])
	}
}

// connected takes a new proved connection in place of the one before it. What the old one still
// delivers is dropped from here on, before the position for the new one is computed.
func (e *Engine[P]) connected(i int, conn P) {
	p := &e.peers[i]
	var none P
	if p.conn != none {
		p.conn.Close(errReplaced)
	}
	pos := e.Ledger.Position(i)
	p.conn, p.up, p.ready, p.nextIn, p.acked = conn, false, false, pos.Received+1, pos.Received
	e.control(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Position{Position: &bankpb.Position{
		Sent: pos.Sent, Acknowledged: pos.Acknowledged, Received: pos.Received, ReceivedHash: pos.ReceivedHash,
	}}})
}

var errReplaced = errors.New("replaced by a newer connection of the same peer")

// control sends a frame on the peer's connection when the batch is durable.
func (e *Engine[P]) control(i int, m *bankpb.BranchMessage) {
	e.Filling.controls = append(e.Filling.controls, control[P]{i, e.peers[i].conn, wire.Append(nil, m)})
}

// position compares a peer's position with the books. Error: ledger.ErrFence; the link is refused.
func (e *Engine[P]) position(i int, pos ledger.Position) error {
	p := &e.peers[i]
	if p.up {
		return e.broken(i, "a second position")
	}
	if err := e.Ledger.Verify(i, pos); err != nil {
		known := p.refused != nil && p.refused.Error() == err.Error()
		p.refused = err
		p.conn.CloseAfter(wire.Append(nil, ErrorMessage(bankpb.Error_REFUSED, err.Error(), 0)))
		if known {
			return nil // said once; the peer dials again in case somebody mends it
		}
		return err
	}
	acked, sent := e.resume(i, pos.Received)
	p.up, p.refused, p.next, p.holds = true, nil, sent+1, acked
	e.control(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Agreed{Agreed: &bankpb.Agreed{}}})
	if e.barrier == 0 {
		e.control(i, readyMessage())
	}
	return nil
}

// agreed notes that the peer found our position to fit, too: of contents that differ only the sender
// knows. When all peers agree, the barrier falls.
func (e *Engine[P]) agreed(i int) {
	p := &e.peers[i]
	if !p.up || p.verified || e.barrier == 0 {
		return // refused here, or agreed before
	}
	p.verified = true
	e.barrier--
	for j := range e.peers {
		if e.barrier == 0 && e.peers[j].up {
			e.control(j, readyMessage())
		}
	}
	if e.barrier == 0 {
		for _, q := range e.early {
			e.Initiate(q.from, q.id, q.at)
		}
		e.early = nil
	}
}

func readyMessage() *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Ready{Ready: &bankpb.Ready{}}}
}

// peerReady notes that a peer takes items on its connection. Only now what its position told counts as
// acknowledged: a directory that another peer refuses must leave no trace here, or its trace would refuse
// the right one later.
func (e *Engine[P]) peerReady(i int) error {
	p := &e.peers[i]
	if !p.up || p.ready {
		return nil
	}
	p.ready = true
	err := e.Ledger.Acknowledge(&e.Filling.Output, i, p.holds)
	e.flush(i)
	return err
}

// items takes what came on a peer's connection. The number of each is checked by the ledger.
func (e *Engine[P]) items(i int, items []ledger.Item, at int64) error {
	p := &e.peers[i]
	if !p.up || e.barrier > 0 {
		return e.broken(i, "items before they were asked for")
	}
	err := e.Ledger.Receive(&e.Filling.Output, i, p.nextIn, items, at)
	p.nextIn += uint64(len(items))
	if err != nil {
		return e.broken(i, err.Error())
	}
	return nil
}

// ack takes a peer's cumulative acknowledgement.
func (e *Engine[P]) ack(i int, count uint64) error {
	p := &e.peers[i]
	if !p.up || count >= p.next {
		return e.broken(i, fmt.Sprintf("%d items acknowledged, of fewer sent", count))
	}
	return e.Ledger.Acknowledge(&e.Filling.Output, i, count)
}

// broken ends a connection whose peer does not keep to the protocol. What it has brought already is dropped:
// items are numbered by their place, and some may not have been taken.
func (e *Engine[P]) broken(i int, what string) error {
	err := fmt.Errorf("%s does not keep to the protocol: %s", e.Ledger.Plan().Names[i], what)
	conn := e.peers[i].conn
	e.lost(i, conn)
	conn.Close(err)
	return err
}

// lost notes the end of a connection, unless a newer one has replaced it.
func (e *Engine[P]) lost(i int, conn P) {
	if p := &e.peers[i]; p.conn == conn {
		var none P
		p.conn, p.up, p.ready = none, false, false
	}
}

// Ready tells that the branch pays and that all its links are up.
func (e *Engine[P]) Ready() bool { return e.Paying() && len(e.Down(1)) == 0 }

// Down names at most so many peers whose links are not up.
func (e *Engine[P]) Down(most int) (names []string) {
	for i := range e.peers {
		if len(names) == most {
			break
		}
		if i != e.Ledger.Self() && !e.peers[i].up {
			names = append(names, e.Ledger.Plan().Names[i])
		}
	}
	return names
}

// Deliver takes what a connection to peer i brought. What comes from a connection that was replaced is
// dropped. Error: the peer does not keep to the protocol, or ledger.ErrFence; the connection is closed.
func (e *Engine[P]) Deliver(i int, conn P, d link.Delivery, at int64) error {
	switch {
	case d.Up:
		e.connected(i, conn)
		return nil
	case e.peers[i].conn != conn && (!e.peers[i].up || !e.lacks(rules.StaleReader)):
		return nil
	case d.Lost != nil:
		e.lost(i, conn)
	case d.Position != nil:
		return e.position(i, *d.Position)
	case d.Agreed:
		e.agreed(i)
	case d.Ready:
		return e.peerReady(i)
	}
	var err error
	if d.Ack > 0 {
		err = e.ack(i, d.Ack)
	}
	if len(d.Items) > 0 && err == nil {
		err = e.items(i, d.Items, at)
	}
	return err
}
