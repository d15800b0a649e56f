// Package observe stands between the branches of somebody else's bank. Each branch is told addresses
// that are proxies of its own, one for each other branch, so that the proxy knows who dials whom
// without a word from either. What passes is told as the events of package judge.
//
// A chunk of bytes is handed on after every message that it completes was told as Sent, and, after the
// link delay, as Passed. So Sent is after the branch sent it, and Passed before its peer can have it.
//
// It changes nothing but the time at which bytes arrive: order, bytes and ends of connections are kept.
// It judges nothing.
package observe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cutbank/internal/judge"
	"cutbank/internal/link"
)

// Bounds of the proxies.
const (
	maxConnections = 4096            // through all proxies at once; one more is closed
	maxQueued      = 1024            // chunks that wait for their time, per direction
	halfOpen       = 5 * time.Second // how long one direction may outlive the other
)

// Config of a Mesh.
type Config struct {
	Names     []string
	Addresses []string // where the branches listen, host:port
	Delay     link.Delay
	Observe   func(judge.Event) // called from many goroutines; what it does happens before the bytes go on

	connections int64 // of a test; 0: maxConnections
}

// Mesh is the proxies of a bank.
type Mesh struct {
	cfg       Config
	listeners [][]net.Listener // [from][to]
	ctx       context.Context  //nolint:containedctx // the lifetime of the proxies, from New to Close
	stop      context.CancelFunc
	wg        sync.WaitGroup
	open      atomic.Int64
	conns     atomic.Int64
	heard     atomic.Bool
	mu        sync.Mutex
	pairs     map[[2]int]bool
}

// New listens on a free port of 127.0.0.1 for each ordered pair.
func New(cfg Config) (*Mesh, error) {
	cfg.connections = cmp.Or(cfg.connections, maxConnections)
	m := &Mesh{cfg: cfg, pairs: map[[2]int]bool{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	for from := range cfg.Names {
		m.listeners = append(m.listeners, make([]net.Listener, len(cfg.Names)))
		for to := range cfg.Names {
			if from == to {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				m.Close(0)
				return nil, fmt.Errorf("a proxy for %s->%s: %w", cfg.Names[from], cfg.Names[to], err)
			}
			m.listeners[from][to] = l
			m.wg.Go(func() { m.accept(l, from, to) })
		}
	}
	return m, nil
}

// Address is where branch from finds branch to.
func (m *Mesh) Address(from, to int) (host string, port int) {
	host, text, _ := net.SplitHostPort(m.listeners[from][to].Addr().String())
	port, _ = strconv.Atoi(text)
	return host, port
}

// Pairs tells how many pairs of branches have had a connection.
func (m *Mesh) Pairs() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pairs)
}

// Heard tells whether any branch has sent another anything.
func (m *Mesh) Heard() bool { return m.heard.Load() }

// Close takes no more connections, lets those that are there run to their end for a while, and then
// ends them.
func (m *Mesh) Close(patience time.Duration) {
	for _, row := range m.listeners {
		for _, l := range row {
			if l != nil {
				_ = l.Close()
			}
		}
	}
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
	}
	m.stop()
	<-done
}

func (m *Mesh) accept(l net.Listener, from, to int) {
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-m.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond): // out of descriptors: let some be closed
			}
			continue
		}
		if m.open.Add(1) > m.cfg.connections {
			m.cfg.Observe(judge.Event{Kind: judge.Note, Text: fmt.Sprintf("more than %d connections at once: the rest was closed", m.cfg.connections)})
			m.open.Add(-1)
			_ = nc.Close()
			continue
		}
		m.wg.Go(func() {
			defer m.open.Add(-1)
			defer func() { _ = nc.Close() }()
			m.serve(nc, from, to)
		})
	}
}

// serve connects the two sides of a connection until both have ended.
func (m *Mesh) serve(dialler net.Conn, from, to int) {
	acceptor, err := m.dial(from, to)
	if err != nil {
		return // the dialler sees its connection closed
	}
	defer func() { _ = acceptor.Close() }()
	release := context.AfterFunc(m.ctx, func() { _ = dialler.Close(); _ = acceptor.Close() })
	defer release()
	m.mu.Lock()
	m.pairs[[2]int{min(from, to), max(from, to)}] = true
	m.mu.Unlock()
	conn := int(m.conns.Add(1))
	var wg sync.WaitGroup
	wg.Go(func() { m.pump(dialler, acceptor, judge.Event{Conn: conn, From: from, To: to}) })
	wg.Go(func() { m.pump(acceptor, dialler, judge.Event{Conn: conn, From: to, To: from}) })
	wg.Wait()
}

// dial comes from the dialler's own address where that is possible: some tell their peers apart by it. The system
// says when it has taken too long, as without a proxy.
func (m *Mesh) dial(from, to int) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(m.cfg.Addresses[from])
	if ip := net.ParseIP(host); ip != nil {
		own := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}
		if nc, err := own.DialContext(m.ctx, "tcp", m.cfg.Addresses[to]); err == nil {
			return nc, nil
		}
	}
	var d net.Dialer
	return d.DialContext(m.ctx, "tcp", m.cfg.Addresses[to])
}

// chunk is what was read at once.
type chunk struct {
	due   time.Time
	bytes []byte
	items []judge.Event // that it completes
}

// pump moves one direction. It reads to the end also when nobody takes the bytes any more: what was
// sent counts.
func (m *Mesh) pump(src, dst net.Conn, e judge.Event) {
	queue := make(chan chunk, maxQueued)
	var writer sync.WaitGroup
	writer.Go(func() { m.write(dst, queue) })
	defer writer.Wait()
	defer close(queue)
	f := framer{names: m.cfg.Names}
	buf := make([]byte, 32<<10)
	var last time.Time
	for {
		n, err := src.Read(buf)
		if n > 0 {
			m.heard.Store(true)
			c := chunk{bytes: append([]byte(nil), buf[:n]...), items: m.observe(&f, buf[:n], e)}
			if d := m.cfg.Delay; d.Max > 0 {
				c.due = time.Now().Add(d.Min + rand.N(d.Max-d.Min+1)) //nolint:gosec // slow motion, not a secret
				if c.due.Before(last) {
					c.due = last // FIFO
				}
				last = c.due
			}
			queue <- c
		}
		if err != nil {
			if bad := f.end(); bad != "" {
				m.tell(e, judge.BadBytes, bad)
			}
			_ = dst.SetReadDeadline(time.Now().Add(halfOpen + m.cfg.Delay.Max))
			return
		}
	}
}

func (m *Mesh) write(dst net.Conn, queue <-chan chunk) {
	dead := false
	for c := range queue {
		if dead {
			continue
		}
		if wait := time.Until(c.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-m.ctx.Done():
			}
		}
		for _, e := range c.items {
			e.Kind = judge.Passed
			m.cfg.Observe(e)
		}
		_, err := dst.Write(c.bytes)
		dead = err != nil
	}
	if tcp, ok := dst.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // it may be closed
	}
}

func (m *Mesh) tell(e judge.Event, kind judge.Kind, text string) {
	e.Kind, e.Text = kind, text
	m.cfg.Observe(e)
}

// observe tells the messages that a chunk completes, and returns those that are items.
func (m *Mesh) observe(f *framer, b []byte, e judge.Event) (items []judge.Event) {
	messages, bad := f.feed(b)
	for _, msg := range messages {
		if msg.Note != "" {
			m.tell(e, judge.Note, m.cfg.Names[e.From]+" "+msg.Note)
		}
		item := e
		item.Kind, item.Money, item.ID, item.Marker = judge.Sent, msg.Money, msg.ID, msg.Kind == Marker
		if msg.Kind != Marker && msg.Kind != Transfer {
			m.tell(e, judge.Frame, "")
			continue
		}
		m.cfg.Observe(item)
		items = append(items, item)
	}
	if bad != "" {
		m.tell(e, judge.BadBytes, bad)
	}
	return items
}
