package sim

import (
	"encoding/binary"
	"errors"
	"slices"

	"cutbank/internal/link"
	"cutbank/internal/wire"
)

// conn is a connection between two branches after the handshake; port is one of its ends, and the
// engine's Port.
type conn struct {
	id    int
	ports [2]*port // the dialler's, the acceptor's
}

type port struct {
	c     *conn
	n     *node
	life  int
	peer  int
	side  int
	open  bool
	ready bool // the peer was

	done bool // the loop was told of its end, or will be

	out     []byte // to be written
	writing bool
	closing bool
	sentAt  int64  // when the last bytes arrive at the other end
	readAt  int64  // when the last delivery reaches the loop
	in      []byte // a frame that is not here as a whole
}

// pair is the links with a peer: the connections here, and when to dial.
type pair struct {
	ports []*port
	delay int64 // microseconds, of the next dial
	soon  bool  // it is waited for
}

// Redial delays of internal/link, in microseconds.
const (
	minRedial = 5_000
	maxRedial = 250_000
)

var errEnded = errors.New("connection ended")

// dialLater dials a peer after the delay that it has come to.
func (n *node) dialLater(peer int) {
	d := &n.links[peer]
	if d.soon {
		return
	}
	d.delay = min(max(d.delay, minRedial), maxRedial)
	wait := d.delay + n.w.upTo(d.delay)
	d.delay *= 2
	d.soon = true
	n.after(wait, func() {
		d.soon = false
		n.dial(peer)
	})
}

func (n *node) dial(peer int) {
	w, to := n.w, n.w.nodes[peer]
	if !to.up || !to.engine.Ledger.Opened() || w.blockedUntil(n.i, peer) > w.now || w.blockedUntil(peer, n.i) > w.now {
		n.dialLater(peer)
		return
	}
	w.conns++
	c := &conn{id: w.conns}
	c.ports = [2]*port{
		{c: c, n: n, life: n.life, peer: peer, side: 0, open: true},
		{c: c, n: to, life: to.life, peer: n.i, side: 1, open: true},
	}
	for _, p := range c.ports {
		p.n.links[p.peer].ports = append(p.n.links[p.peer].ports, p)
		d := 2 * (1 + w.upTo(w.Latency))
		p.readAt, p.sentAt = w.now+d, w.now+d
		p.n.after(d, func() {
			if p.open {
				w.note("link", p.n.i, p.peer, uint64(c.id)) //nolint:gosec // a count
				p.n.turn(func() { p.n.deliver(p, link.Delivery{Up: true}) })
			}
		})
	}
}

// Send is engine.Port's.
func (p *port) Send(frames []byte) {
	if !p.open {
		return
	}
	p.out = append(p.out, frames...)
	p.write()
}

// SendItems is engine.Port's.
func (p *port) SendItems(ack, items []byte) {
	p.Send(ack)
	p.Send(items)
}

// CloseAfter is engine.Port's.
func (p *port) CloseAfter(frames []byte) {
	p.Send(frames)
	p.closing = true
	p.write()
}

// Close is engine.Port's. What the reader has handed over already still reaches the loop.
func (p *port) Close(error) {
	if p.open {
		if !p.closing && p.n.up {
			p.n.w.saw(Replaced)
		}
		p.n.w.end(p.c, p.side, 0)
	}
}

// write lets the writer take what is queued a moment later, all of it at once.
func (p *port) write() {
	if p.writing {
		return
	}
	p.writing = true
	p.n.after(p.n.w.upTo(50), func() {
		p.writing = false
		chunk := p.out
		p.out = nil
		if p.open && len(chunk) > 0 {
			p.n.w.transmit(p, chunk)
		}
		if p.closing && p.open {
			p.n.w.end(p.c, p.side, 0)
		}
	})
}

// transmit brings bytes to the other end, in order, in one piece or two.
func (w *World) transmit(p *port, chunk []byte) {
	other := p.c.ports[1-p.side]
	if len(chunk) > 1 && w.chance(3) {
		k := 1 + w.random.IntN(len(chunk)-1)
		w.transmit(p, chunk[:k:k])
		chunk = chunk[k:]
	}
	t := w.now + 1 + w.upTo(w.Latency)
	pair := p.n.i*w.Branches + p.peer
	if w.slow[pair] > w.now {
		t += w.upTo(1_000_000)
	}
	t = max(t, w.blocked[pair]+w.upTo(1000), p.sentAt)
	p.sentAt = t
	if other.n.latest > t {
		w.Result.Faults[Reordered]++
	}
	other.n.latest = max(other.n.latest, t)
	w.at(t, func() { other.arrive(chunk) })
}

// arrive reads what came. The deliveries reach the loop a little later, as through the channel of the
// production branch, and do so even if the connection ends meanwhile.
func (p *port) arrive(chunk []byte) {
	if !p.open || p.life != p.n.life || p.n.w.Violation != nil {
		return
	}
	w := p.n.w
	p.in = append(p.in, chunk...)
	whole := wholeFrames(p.in)
	if whole == 0 {
		return
	}
	bytes := p.in[:whole:whole]
	p.in = p.in[whole:]
	p.readAt = max(p.readAt, w.now+w.upTo(200))
	if w.chance(8) {
		p.readAt += w.upTo(w.Busy)
	}
	p.n.after(p.readAt-w.now, func() { p.read(bytes) })
}

func (p *port) read(bytes []byte) {
	w := p.n.w
	r := w.receiver()
	r.src.bytes = bytes
	err := r.conn.Receive(func(d link.Delivery) {
		if p.life != p.n.life {
			return
		}
		if len(d.Items) > 0 && !p.open {
			w.saw(StaleBytes)
		}
		p.ready = p.ready || d.Ready
		p.n.turn(func() { p.n.deliver(p, d) })
	})
	if errors.Is(err, errNoMore) {
		w.receivers = append(w.receivers, r)
	} else if p.life == p.n.life {
		w.end(p.c, p.side, 0) // refused by the peer
	}
}

// end ends a connection: at one side now, at the other when it hears of it.
func (w *World) end(c *conn, side int, later int64) {
	c.ports[side].shut()
	w.after(1+w.upTo(w.Latency)+later, c.ports[1-side].shut)
}

// shut is the end of a connection as one side sees it. The loop hears of it behind what was read.
func (p *port) shut() {
	if p.done || p.life != p.n.life {
		return
	}
	p.done, p.open = true, false
	p.n.after(max(p.readAt-p.n.w.now, 0)+p.n.w.upTo(1000), func() {
		p.n.turn(func() { p.n.deliver(p, link.Delivery{Lost: errEnded}) })
		l := &p.n.links[p.peer]
		l.ports = slices.DeleteFunc(l.ports, func(q *port) bool { return q == p })
		if p.side == 0 {
			if p.ready {
				l.delay = minRedial
			}
			p.n.dialLater(p.peer)
		}
	})
}

// breakAll ends the connections of a process that died: the peers hear of it, some much later.
func (w *World) breakAll(i int) {
	for _, n := range w.nodes {
		if n.i == i || !n.up {
			continue
		}
		for _, p := range n.links[i].ports {
			w.after(1+w.upTo(w.Latency)+w.halfOpen(n.i), p.shut)
		}
	}
}

// halfOpen is how much later a side hears of the end of a connection.
func (w *World) halfOpen(i int) int64 {
	if !w.on(HalfOpen) || w.calm || !w.chance(3) {
		return 0
	}
	w.fault(HalfOpen, i)
	return w.upTo(10_000_000)
}

func (w *World) blockedUntil(from, to int) int64 { return w.blocked[from*w.Branches+to] }

// ---- reading ----

var errNoMore = errors.New("no more bytes for now")

// source is a stream that has what it was given last.
type source struct{ bytes []byte }

func (s *source) Read(b []byte) (int, error) {
	if len(s.bytes) == 0 {
		return 0, errNoMore
	}
	n := copy(b, s.bytes)
	s.bytes = s.bytes[n:]
	return n, nil
}

// receiver is the production reader of a connection. Whole frames are given to it, so that it can
// serve one connection after the other.
type receiver struct {
	src  *source
	conn *link.Conn
}

func (w *World) receiver() *receiver {
	if n := len(w.receivers); n > 0 {
		r := w.receivers[n-1]
		w.receivers = w.receivers[:n-1]
		return r
	}
	src := &source{}
	return &receiver{src, link.Receiver(0, wire.NewReader(src, wire.MaxFrame))}
}

// wholeFrames is how many bytes of whole frames there are.
func wholeFrames(b []byte) int {
	whole := 0
	for {
		length, n := binary.Uvarint(b[whole:])
		if n <= 0 || int(length) > len(b)-whole-n { //nolint:gosec // own frames
			return whole
		}
		whole += n + int(length) //nolint:gosec // own frames
	}
}
