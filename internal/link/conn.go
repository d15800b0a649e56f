package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// WriteTimeout bounds how long a peer may refuse to take what is written to it.
const WriteTimeout = 10 * time.Second

// ErrSilent is why a link is given up whose peer says nothing, not even that it is alive: it is paused, its
// host is gone, or what it says does not come through. The text says for how long.
var ErrSilent = errors.New("the peer says nothing")

// Heartbeat is how often each side of a link says something, at the least: an Ack of nothing, which changes
// nothing, when there is nothing else to say. n branches say n² of them in this time, so that it grows with n.
func Heartbeat(branches int) time.Duration {
	return max(time.Second, time.Duration(branches)*40*time.Millisecond)
}

// Silence is how long a peer may say nothing before its link is given up.
func Silence(branches int) time.Duration { return max(5*time.Second, 3*Heartbeat(branches)) }

// MaxDelivery is the most items in a Delivery.
const MaxDelivery = 4096

// Delay holds each item on its way for a random time between Min and Max, in order. Zero is none.
type Delay struct{ Min, Max time.Duration }

// MaxDelay bounds a Delay.
const MaxDelay = time.Minute

// ParseDelay reads "0", "50ms" or "50ms-250ms".
func ParseDelay(s string) (d Delay, err error) {
	low, high, ranged := strings.Cut(s, "-")
	if !ranged {
		high = low
	}
	var err1, err2 error
	d.Min, err1 = time.ParseDuration(low)
	d.Max, err2 = time.ParseDuration(high)
	if err1 != nil || err2 != nil || d.Min < 0 || d.Max < d.Min || d.Max > MaxDelay {
		return d, fmt.Errorf("link delay %q is not a time such as 50ms or a range such as 50ms-250ms, at most %s", s, MaxDelay)
	}
	return d, nil
}

// Delivery is what a connection brought: one of its fields besides Conn, or Items and Ack together.
type Delivery struct {
	Conn     *Conn
	Up       bool // the handshake is done
	Position *ledger.Position
	Agreed   bool
	Ready    bool
	Items    []ledger.Item // in order; give them back with Recycle
	Ack      uint64        // the highest count acknowledged; 0: none
	Lost     error         // why the connection ended; nothing comes after it

	home *[]ledger.Item // where the memory of Items belongs
}

// Recycle gives the memory of a delivery back.
func (d Delivery) Recycle() {
	if d.home != nil {
		*d.home = d.Items
		d.Conn.free.Put(d.home)
	}
}

// Conn is one connection to a peer after the handshake: frames in, frames out. It keeps no state of
// the channels: who uses it tells it what to send, and numbers what it delivers.
type Conn struct {
	Peer int

	nc      net.Conn
	r       *wire.Reader
	delay   Delay
	silence time.Duration // that the peer may keep; 0: any
	free    *sync.Pool
	ready   bool // the peer was; the reader's, to be read after run

	mu      sync.Mutex
	out     []byte // to be written now
	held    []held // items to be written when they are due
	err     error
	closing bool // close when out is written

	wake   chan struct{} // capacity 1: something is in out or held
	closed chan struct{}
}

type held struct {
	due   time.Time
	bytes []byte
}

func newConn(peer int, nc net.Conn, r *wire.Reader, delay Delay, branches int) *Conn {
	return &Conn{
		Peer: peer, nc: nc, r: r, delay: delay, silence: Silence(branches),
		free: &sync.Pool{New: func() any { s := make([]ledger.Item, 0, 64); return &s }},
		wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// Receiver is the reading half of a connection, over any stream: for a simulator.
func Receiver(peer int, r *wire.Reader) *Conn {
	c := newConn(peer, nil, r, Delay{}, 0)
	c.silence = 0
	return c
}

// Send queues frames that are not items. What is queued is bounded by the caller: a few frames a
// batch, and the window of the channel.
func (c *Conn) Send(frames []byte) {
	c.mu.Lock()
	c.out = append(c.out, frames...)
	c.mu.Unlock()
	c.signal()
}

// SendItems queues an acknowledgement, and the frames of items, which the link delay may hold.
func (c *Conn) SendItems(ack, items []byte) {
	c.mu.Lock()
	c.out = append(c.out, ack...)
	switch {
	case len(items) == 0:
	case c.delay.Max <= 0:
		c.out = append(c.out, items...)
	default:
		due := time.Now().Add(c.delay.Min + rand.N(c.delay.Max-c.delay.Min+1)) //nolint:gosec // slow motion, not a secret
		if n := len(c.held); n > 0 && c.held[n-1].due.After(due) {
			due = c.held[n-1].due // FIFO
		}
		c.held = append(c.held, held{due, append([]byte(nil), items...)})
	}
	c.mu.Unlock()
	c.signal()
}

// heartbeat says that this end is alive.
func (c *Conn) heartbeat() { c.Send(wire.AppendAck(nil, 0)) }

func (c *Conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Close ends the connection at once, for a reason that is delivered as Lost.
func (c *Conn) Close(reason error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = reason
	}
	c.mu.Unlock()
	if first {
		close(c.closed)
		_ = c.nc.Close()
	}
}

// CloseAfter ends the connection when the frames are written: a last word.
func (c *Conn) CloseAfter(frames []byte) {
	c.mu.Lock()
	c.out, c.closing = append(c.out, frames...), true
	c.mu.Unlock()
	c.signal()
}

// run reads and writes until the connection ends. Deliver is called in order, last with Lost.
func (c *Conn) run(deliver func(Delivery)) {
	deliver(Delivery{Conn: c, Up: true})
	var writer sync.WaitGroup
	writer.Go(c.writeLoop)
	c.Close(c.Receive(deliver))
	writer.Wait()
	deliver(Delivery{Conn: c, Lost: c.err})
}

func (c *Conn) writeLoop() {
	var buf []byte
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var closing bool
		var wait time.Duration
		buf, wait, closing = c.take(buf[:0])
		if len(buf) > 0 {
			err := c.nc.SetWriteDeadline(time.Now().Add(WriteTimeout))
			if err == nil {
				_, err = c.nc.Write(buf)
			}
			if err != nil {
				c.Close(err)
				return
			}
			continue
		}
		if closing {
			c.Close(errors.New("refused"))
			return
		}
		timer.Reset(wait)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-c.closed:
			return
		}
	}
}

// take moves what is to be written now into buf, and tells how long the next held item waits.
func (c *Conn) take(buf []byte) (_ []byte, wait time.Duration, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, c.out = c.out, buf
	if len(c.held) == 0 {
		return buf, time.Hour, c.closing
	}
	now := time.Now()
	for len(c.held) > 0 && !c.held[0].due.After(now) {
		buf = append(buf, c.held[0].bytes...)
		c.held = c.held[1:]
	}
	if len(c.held) > 0 {
		wait = c.held[0].due.Sub(now)
	}
	return buf, wait, c.closing
}

// lastLook is for what came while this process was stopped or starved: it finds its deadline passed before it
// finds what is there to read.
const lastLook = 100 * time.Millisecond

// next waits for a frame.
func (c *Conn) next() ([]byte, error) {
	if c.silence == 0 {
		return c.r.Next()
	}
	frame, err := c.nextWithin(c.silence)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		frame, err = c.nextWithin(lastLook)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w for %s", ErrSilent, c.silence)
	}
	return frame, err
}

func (c *Conn) nextWithin(d time.Duration) ([]byte, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil, err
	}
	return c.r.Next()
}

// Receive delivers until the connection fails, and returns its error. Items that are here already go together.
// It may be called again when a stream that had nothing has more.
func (c *Conn) Receive(deliver func(Delivery)) error {
	for {
		frame, err := c.next()
		d := Delivery{Conn: c}
		for more := true; err == nil && more; {
			if item, ok := wire.ParseItem(frame); ok {
				if d.home == nil {
					d.home = c.free.Get().(*[]ledger.Item) //nolint:forcetypeassert // the pool's only type
					d.Items = (*d.home)[:0]
				}
				d.Items = append(d.Items, item)
			} else if ack, ok := wire.ParseAck(frame); ok {
				d.Ack = max(d.Ack, ack)
			} else if err = c.other(&d, frame, deliver); err != nil {
				break
			}
			if len(d.Items) >= MaxDelivery {
				break
			}
			frame, more, err = c.r.Buffered()
		}
		if len(d.Items) > 0 || d.Ack > 0 {
			deliver(d)
		}
		if err != nil {
			return err
		}
	}
}

// other takes a frame that is not an item in its short form.
func (c *Conn) other(d *Delivery, frame []byte, deliver func(Delivery)) error {
	m, err := wire.Parse(frame)
	if err != nil {
		return err
	}
	switch m := m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_Ack:
		d.Ack = max(d.Ack, m.Ack.GetReceived())
	case *bankpb.BranchMessage_Position:
		p := m.Position
		deliver(Delivery{Conn: c, Position: &ledger.Position{
			Sent: p.GetSent(), Acknowledged: p.GetAcknowledged(), Received: p.GetReceived(), ReceivedHash: p.GetReceivedHash(),
		}})
	case *bankpb.BranchMessage_Agreed:
		deliver(Delivery{Conn: c, Agreed: true})
	case *bankpb.BranchMessage_Ready:
		c.ready = true
		deliver(Delivery{Conn: c, Ready: true})
	case *bankpb.BranchMessage_Error:
		return fmt.Errorf("%w: %q", ErrRefused, m.Error.GetMessage())
	default:
		return fmt.Errorf("%w: %T does not belong on a link", wire.ErrFrame, m)
	}
	return nil
}
