package branch

import (
	"errors"
	"fmt"

	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Window bounds the unacknowledged items of a channel; markers have room beyond it.
const Window = 4096

// MaxWaiting bounds the retrieves that wait at a branch for a snapshot to complete.
const MaxWaiting = 4096

// port is a connection to a peer as the engine sees it: *link.Conn, or the tests' own.
type port interface {
	comparable
	Send(frames []byte)
	SendItems(frames []byte)
	CloseAfter(frames []byte)
	Close(reason error)
}

// client is who asked: *Client, or the tests' own. Reply must not block.
type client interface {
	Reply(m *bankpb.BranchMessage)
}

// peer is what the engine knows of the link with a peer, beside the ledger.
type peer[P port] struct {
	conn     P    // the newest proved connection; zero: none
	verified bool // a position fitted the books since this process started
	refused  error

	up      bool   // the peer's position on conn fitted
	ready   bool   // the peer wants items on conn
	next    uint64 // number of the next item to send on conn
	nextIn  uint64 // number of the next item to come on conn
	acked   uint64 // highest count acknowledged on conn
	durable mark   // what the last durable batch left
}

// mark is how far the two channels with a peer were at the end of a batch.
type mark struct {
	peer           int
	sent, received uint64
}

// batch is the steps between two commits: what to persist, and what to let out then.
type batch[P port] struct {
	ledger.Output
	marks    []mark
	controls []control[P]
	replies  []reply
}

type control[P port] struct {
	peer  int
	conn  P
	frame []byte
}

type reply struct {
	to client
	m  *bankpb.BranchMessage
}

func (b *batch[P]) empty() bool {
	return len(b.Persist) == 0 && len(b.Channels) == 0 && len(b.controls) == 0 && len(b.replies) == 0
}

// engine is a branch without goroutines, sockets, clock and randomness: inputs change the ledger and
// fill a batch; seal closes the batch, which is to be made durable; release lets its effects out.
// At most one sealed batch is under way while the next is being filled.
type engine[P port] struct {
	ledger  *ledger.Ledger
	peers   []peer[P]
	barrier int // peers still to be verified since the start; then transfers and items flow
	filling *batch[P]
	spare   *batch[P]
	waiting map[uint64][]client // retrieves of snapshots that are not complete
	waits   int
	frames  []byte
}

func newEngine[P port]() *engine[P] {
	return &engine[P]{
		ledger: new(ledger.Ledger), filling: new(batch[P]), spare: new(batch[P]),
		waiting: make(map[uint64][]client),
	}
}

// begin readies the links of a ledger that is open: after Open, and after recovery.
func (e *engine[P]) begin() {
	n := len(e.ledger.Plan().Names)
	e.peers, e.barrier = make([]peer[P], n), n-1
	for i := range e.peers {
		if i != e.ledger.Self() {
			e.peers[i].durable = mark{i, e.ledger.Sent(i), e.ledger.Received(i)}
		}
	}
}

// paying tells that the books were compared with every peer since the start.
func (e *engine[P]) paying() bool { return e.ledger.Opened() && e.barrier == 0 }

// seal ends the batch that is being filled and starts the next.
func (e *engine[P]) seal() *batch[P] {
	b := e.filling
	for _, p := range b.Channels {
		b.marks = append(b.marks, mark{p, e.ledger.Sent(p), e.ledger.Received(p)})
	}
	for _, id := range b.Completed {
		answer := errorMessage(bankpb.Error_SNAPSHOT_GONE, "no longer kept", id)
		if r, _ := e.ledger.Snapshot(id); r != nil { // else one batch completed more than are kept
			answer = e.localSnapshot(r)
		}
		for _, c := range e.waiting[id] {
			b.replies = append(b.replies, reply{c, answer})
			e.waits--
		}
		delete(e.waiting, id)
	}
	e.filling, e.spare = e.spare, nil
	return b
}

// release lets the effects of a batch out, now that it is durable.
func (e *engine[P]) release(b *batch[P]) {
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
}

// flush sends a peer what is durable and has not been sent on its connection.
func (e *engine[P]) flush(i int) {
	p := &e.peers[i]
	if !p.up {
		return
	}
	if p.durable.received > p.acked {
		p.acked = p.durable.received
		p.conn.Send(wire.AppendAck(nil, p.acked))
	}
	if !p.ready || p.next > p.durable.sent || e.barrier > 0 {
		return
	}
	e.frames = e.frames[:0]
	for ; p.next <= p.durable.sent; p.next++ {
		e.frames = wire.AppendItem(e.frames, e.ledger.Item(i, p.next))
	}
	p.conn.SendItems(e.frames)
}

// connected takes a new proved connection in place of the one before it. What the old one still
// delivers is dropped from here on, before the position for the new one is computed.
func (e *engine[P]) connected(i int, conn P) {
	p := &e.peers[i]
	var none P
	if p.conn != none {
		p.conn.Close(errReplaced)
	}
	pos := e.ledger.Position(i)
	p.conn, p.up, p.ready, p.nextIn, p.acked = conn, false, false, pos.Received+1, pos.Received
	e.control(i, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Position{Position: &bankpb.Position{
		Sent: pos.Sent, Acknowledged: pos.Acknowledged, Received: pos.Received, ReceivedHash: pos.ReceivedHash,
	}}})
}

var errReplaced = errors.New("replaced by a newer connection of the same peer")

// control sends a frame on the peer's connection when the batch is durable.
func (e *engine[P]) control(i int, m *bankpb.BranchMessage) {
	e.filling.controls = append(e.filling.controls, control[P]{i, e.peers[i].conn, wire.Append(nil, m)})
}

// position compares a peer's position with the books. Error: ledger.ErrFence; the link is refused.
func (e *engine[P]) position(i int, pos ledger.Position) error {
	p := &e.peers[i]
	if p.up {
		return e.broken(i, "a second position")
	}
	if err := e.ledger.Verify(i, pos); err != nil {
		known := p.refused != nil && p.refused.Error() == err.Error()
		p.refused = err
		p.conn.CloseAfter(wire.Append(nil, errorMessage(bankpb.Error_REFUSED, err.Error(), 0)))
		if known {
			return nil // said once; the peer dials again in case somebody mends it
		}
		return err
	}
	if err := e.ledger.Acknowledge(&e.filling.Output, i, pos.Received); err != nil {
		return err
	}
	p.up, p.refused, p.next = true, nil, pos.Received+1
	if !p.verified {
		p.verified = true
		e.barrier--
		if e.barrier == 0 {
			for j := range e.peers {
				if e.peers[j].up {
					e.control(j, readyMessage())
				}
			}
		}
		return nil
	}
	if e.barrier == 0 {
		e.control(i, readyMessage())
	}
	return nil
}

func readyMessage() *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Ready{Ready: &bankpb.Ready{}}}
}

// peerReady notes that a peer takes items on its connection.
func (e *engine[P]) peerReady(i int) {
	e.peers[i].ready = true
	e.flush(i)
}

// items takes what came on a peer's connection. The number of each is checked by the ledger.
func (e *engine[P]) items(i int, items []ledger.Item, at int64) error {
	p := &e.peers[i]
	if !p.up || e.barrier > 0 {
		return e.broken(i, "items before they were asked for")
	}
	err := e.ledger.Receive(&e.filling.Output, i, p.nextIn, items, at)
	p.nextIn += uint64(len(items))
	if err != nil {
		return e.broken(i, err.Error())
	}
	return nil
}

// ack takes a peer's cumulative acknowledgement.
func (e *engine[P]) ack(i int, count uint64) error {
	p := &e.peers[i]
	if !p.up || count >= p.next {
		return e.broken(i, fmt.Sprintf("%d items acknowledged, of fewer sent", count))
	}
	return e.ledger.Acknowledge(&e.filling.Output, i, count)
}

// broken ends a connection whose peer does not keep to the protocol.
func (e *engine[P]) broken(i int, what string) error {
	err := fmt.Errorf("%s does not keep to the protocol: %s", e.ledger.Plan().Names[i], what)
	e.peers[i].conn.Close(err)
	return err
}

// lost notes the end of a connection, unless a newer one has replaced it.
func (e *engine[P]) lost(i int, conn P) {
	if p := &e.peers[i]; p.conn == conn {
		var none P
		p.conn, p.up, p.ready = none, false, false
	}
}

// linksUp counts the links that are up.
func (e *engine[P]) linksUp() int {
	n := 0
	for i := range e.peers {
		if e.peers[i].up {
			n++
		}
	}
	return n
}

// dispatch takes a delivery of a link. Stale ones, of a connection that was replaced, are dropped.
func dispatch(e *engine[*link.Conn], d link.Delivery, at int64) error {
	i := d.Conn.Peer
	switch {
	case d.Up:
		e.connected(i, d.Conn)
		return nil
	case e.peers[i].conn != d.Conn:
		return nil
	case d.Lost != nil:
		e.lost(i, d.Conn)
	case d.Position != nil:
		return e.position(i, *d.Position)
	case d.Ready:
		e.peerReady(i)
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
