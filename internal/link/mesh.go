// Package link makes one TCP connection per pair of branches into two FIFO, exactly-once channels,
// across crashes of either side.
//
// Of two branches the one later in the roster dials the earlier. On a connection:
//
//	dialler  → Hello                  who I am, which bank, a nonce
//	acceptor → Hello                  the same, and proof of the key over both nonces
//	dialler  → Proof                  of the key
//	both     → Position               what I durably hold of both channels: compared (ledger.Verify)
//	both     → Agreed                 your position fits my books
//	both     → Ready                  all my peers and I agree: send
//	both     → Transfer, Marker, Ack  item n+1 … of the channel, n being the received count of the Position
//
// Items carry no number: the k-th after the Position is number n+k. Acks are cumulative counts of
// what is durable at the receiver; an Ack of 0 tells only that its sender is alive (Heartbeat). A peer
// that says nothing for Silence is given up, and dialled again.
//
// This package brings connections up (and up again) and moves frames; who owns the ledger decides
// what goes out, and checks each item's number against the ledger. The newest proved connection of a
// pair replaces the one before it; that is decided where Delivery.Up is handled, so that nothing of
// the old one can be applied after the new Position is computed.
//
// Not here: money, snapshots, durability.
package link

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// redial is the shortest and the longest delay: the shortest after the loss of a link that had got as far as
// Ready; else the delay doubles, also for a peer that refuses after the handshake. They grow with the
// branches: n of them have n²/2 links to redial when all are down.
func redial(branches int) (shortest, longest time.Duration) {
	n := time.Duration(branches)
	return max(5*time.Millisecond, n*time.Millisecond/2), max(250*time.Millisecond, n*8*time.Millisecond)
}

// A branch does at most maxDials handshakes at a time, or their number times the branches' would be more
// than a machine does within HandshakeTimeout. One that takes longer than dialTime is not waited for.
const (
	maxDials = 8
	dialTime = 250 * time.Millisecond
)

// Config of a Mesh.
type Config struct {
	Delay   Delay          // of items; none
	Deliver func(Delivery) // called by one goroutine per connection, in order; may block
	// Failed tells why a link that was dialled did not come up. It must not block.
	Failed func(peer string, err error)
	// Dial connects to the branch of that name, and knows that it is that one.
	Dial func(ctx context.Context, address, name string) (net.Conn, error)
}

// Mesh is the connections of one branch.
type Mesh struct {
	cfg   Config
	id    atomic.Pointer[Identity]
	dials chan struct{} // capacity maxDials
	wg    sync.WaitGroup

	mu        sync.Mutex
	addresses []string
	cuts      map[int]time.Time  // until when a peer's link stays down
	conns     map[*Conn]struct{} // that are served

	ctx  context.Context //nolint:containedctx // the lifetime of the connections, which Start begins and Stop ends
	stop context.CancelFunc
}

// NewMesh is a mesh of a branch that belongs to no bank yet.
func NewMesh(cfg Config) *Mesh {
	m := &Mesh{cfg: cfg, dials: make(chan struct{}, maxDials), cuts: make(map[int]time.Time), conns: make(map[*Conn]struct{})}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Identity is nil until Start.
func (m *Mesh) Identity() *Identity { return m.id.Load() }

// Start begins to dial all earlier branches and to accept the later ones.
func (m *Mesh) Start(id *Identity, addresses []string) {
	m.Move(addresses)
	m.id.Store(id)
	for _, peer := range rand.Perm(id.Self) { //nolint:gosec // or all would dial the first at the same time
		m.wg.Go(func() { m.dialLoop(id, peer) })
	}
	m.wg.Go(func() { m.beat(Heartbeat(len(id.Names))) })
}

// beat says on all connections that this branch is alive. All branches of a machine do so at the same time:
// a process that has many heartbeats to read at once takes a tenth of the CPU that it would for each alone.
func (m *Mesh) beat(every time.Duration) {
	for {
		now := time.Now()
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(now.Truncate(every).Add(every).Sub(now)):
		}
		m.mu.Lock()
		for c := range m.conns {
			c.heartbeat()
		}
		m.mu.Unlock()
	}
}

// Move tells where the branches are from now on. The links with those that have moved are closed: the
// old address may never answer again. Safe for concurrent use.
func (m *Mesh) Move(addresses []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.addresses
	m.addresses = slices.Clone(addresses)
	for c := range m.conns {
		if old[c.Peer] != addresses[c.Peer] {
			c.Close(errMoved)
		}
	}
}

// address is where a branch is.
func (m *Mesh) address(peer int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses[peer]
}

// Stop ends all connections and waits for their goroutines.
func (m *Mesh) Stop() {
	m.stop()
	m.wg.Wait()
}

// Accept serves a connection whose first message was a Hello, until it ends. Proved is called when it
// has become a link. Error: why it has not; the other end was told.
func (m *Mesh) Accept(nc net.Conn, r *wire.Reader, hello *bankpb.Hello, proved func()) error {
	id := m.id.Load()
	if id == nil {
		return Refuse(nc, &Refusal{bankpb.Error_NOT_OPEN, "not open yet"})
	}
	peer, err := id.Accept(nc, r, hello)
	if err != nil {
		return err
	}
	proved()
	m.serve(newConn(peer, nc, r, m.cfg.Delay, len(id.Names)), "")
	return nil
}

// MaxCut bounds how long a link can be cut.
const MaxCut = time.Minute

var (
	errCut   = errors.New("the link is cut on purpose")
	errMoved = errors.New("the peer has another address")
)

// Cut closes the link with a peer and keeps it down for so long, at most MaxCut: it is not dialled, and
// a connection of the peer is closed. A later Cut replaces the one before it. Safe for concurrent use.
func (m *Mesh) Cut(peer int, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts[peer] = time.Now().Add(min(d, MaxCut))
	for c := range m.conns {
		if c.Peer == peer {
			c.Close(errCut)
		}
	}
}

// cutFor is how long the link with a peer stays down on purpose.
func (m *Mesh) cutFor(peer int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, time.Until(m.cuts[peer]))
}

// serve serves a connection that was made to an address; empty: the peer dialled.
func (m *Mesh) serve(c *Conn, dialled string) {
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}()
	if m.cutFor(c.Peer) > 0 || dialled != "" && dialled != m.address(c.Peer) { // looked up after c is known to Cut and Move
		_ = c.nc.Close()
		return
	}
	release := context.AfterFunc(m.ctx, func() { c.Close(context.Canceled) })
	defer release()
	c.run(m.cfg.Deliver)
}

func (m *Mesh) dialLoop(id *Identity, peer int) {
	shortest, longest := redial(len(id.Names))
	delay := shortest
	for m.ctx.Err() == nil {
		ready, err := false, error(nil)
		if m.cutFor(peer) == 0 {
			ready, err = m.dial(id, peer)
		}
		if err != nil {
			m.cfg.Failed(id.Names[peer], err)
		}
		if ready {
			delay = shortest
		}
		wait := delay + rand.N(delay) //nolint:gosec // spreads the dials of many branches
		if cut := m.cutFor(peer); cut > 0 {
			wait, delay = min(cut, longest), shortest // it may be shortened
		}
		select {
		case <-m.ctx.Done():
		case <-time.After(wait):
		}
		delay = min(2*delay, longest)
	}
}

// turn waits until a dial may begin; done tells that it is over.
func (m *Mesh) turn() (done func()) {
	select {
	case m.dials <- struct{}{}:
	case <-m.ctx.Done():
		return func() {}
	}
	done = sync.OnceFunc(func() { <-m.dials })
	time.AfterFunc(dialTime, done)
	return done
}

// dial connects, serves until the connection ends, and tells whether the peer was ever ready on it.
// Error: why it never came up.
func (m *Mesh) dial(id *Identity, peer int) (ready bool, err error) {
	done := m.turn()
	defer done()
	ctx, cancel := context.WithTimeout(m.ctx, HandshakeTimeout)
	defer cancel()
	address := m.address(peer)
	nc, err := m.cfg.Dial(ctx, address, id.Names[peer])
	if err != nil {
		return false, err
	}
	defer func() { _ = nc.Close() }()
	release := context.AfterFunc(m.ctx, func() { _ = nc.Close() })
	defer release()
	r := wire.NewReader(nc, wire.MaxFrame)
	if err := id.Dial(nc, r, peer); err != nil {
		return false, err
	}
	done()
	c := newConn(peer, nc, r, m.cfg.Delay, len(id.Names))
	m.serve(c, address)
	return c.ready, nil
}
