package link_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cutbank/internal/link"
	"cutbank/internal/wire"
)

// network is two meshes in virtual time, a and b; b dials a. It passes bytes on, or swallows them: then
// nobody hears of the end of the other.
type network struct {
	testing.TB

	mu    sync.Mutex
	lost  map[string]bool // addresses behind which everything vanishes
	dials []string        // addresses that were dialled
	log   [2][]link.Delivery
	mesh  [2]*link.Mesh

	dialled func(address string) // called when a dial has connected; nil: nothing
	up      func(link.Delivery)  // called when a link has come up; nil: nothing
	stopped atomic.Bool          // b is, until what it is sent has come
}

// late is the connection of a process that was stopped: when it goes on, its deadline has passed, and what
// came meanwhile is there.
type late struct {
	net.Conn
	n    *network
	came []byte
}

func (l *late) Read(b []byte) (int, error) {
	if k := copy(b, l.came); k > 0 {
		l.came = l.came[k:]
		return k, nil
	}
	k, err := l.Conn.Read(b)
	if k > 0 && l.n.stopped.CompareAndSwap(true, false) {
		l.came = slices.Clone(b[:k])
		return 0, os.ErrDeadlineExceeded
	}
	return k, err
}

// pass copies what comes from src, unless the address is lost.
func (n *network) pass(dst, src net.Conn, address string) {
	for buf := make([]byte, 1<<10); ; {
		k, err := src.Read(buf)
		if n.isLost(address) {
			if err != nil {
				return
			}
			continue
		}
		if err != nil {
			_ = dst.Close()
			return
		}
		_, _ = dst.Write(buf[:k])
	}
}

func (n *network) isLost(address string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost[address]
}

func (n *network) lose(address string, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost[address] = lost
}

// dial connects b to a, as if a listened at every address.
func (n *network) dial(ctx context.Context, address, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, address)
	n.mu.Unlock()
	if n.isLost(address) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if n.dialled != nil {
		n.dialled(address)
	}
	near, out := net.Pipe()
	in, far := net.Pipe()
	go n.pass(in, out, address)
	go n.pass(out, in, address)
	go func() {
		defer func() { _ = far.Close() }()
		r := wire.NewReader(far, wire.MaxFrame)
		if m, err := r.NextMessage(); err == nil {
			_ = n.mesh[0].Accept(far, r, m.GetHello(), func() {})
		}
	}()
	return &late{Conn: near, n: n}, nil
}

// count says how often the links of a mesh came up, and why they were lost.
func (n *network) count(at int) (up int, lost []error) {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.log[at] {
		if d.Up {
			up++
		}
		if d.Lost != nil {
			lost = append(lost, d.Lost)
		}
	}
	return up, lost
}

// linked runs two meshes whose link is up.
func linked(t *testing.T, f func(n *network)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{TB: t, lost: make(map[string]bool)}
		for i := range n.mesh {
			n.mesh[i] = link.NewMesh(link.Config{
				Deliver: func(d link.Delivery) {
					n.mu.Lock()
					defer n.mu.Unlock()
					n.log[i] = append(n.log[i], d)
					if d.Up && n.up != nil {
						n.up(d)
					}
				},
				Failed: func(string, error) {}, Dial: n.dial, Delay: delay,
			})
		}
		for i, m := range n.mesh {
			m.Start(identity(i, func(id *link.Identity) { id.Names = id.Names[:2] }), []string{"old", "b"})
		}
		defer func() {
			n.lose("old", false)
			n.mesh[1].Stop()
			n.mesh[0].Stop()
		}()
		if up, lost := n.count(1); up != 1 || lost != nil {
			t.Fatalf("up %d times, lost by %v", up, lost)
		}
		f(n)
	})
}

// TestIdleLinkStays: two branches with nothing to say keep their link, and nobody hears of their heartbeats.
func TestIdleLinkStays(t *testing.T) {
	linked(t, func(n *network) {
		time.Sleep(time.Hour)
		synctest.Wait()
		for i := range n.log {
			if len(n.log[i]) != 1 {
				n.Errorf("%d was told %v", i, n.log[i])
			}
		}
	})
}

// TestStoppedItself: a branch that was stopped for so long that its peer seems silent looks again at what came.
func TestStoppedItself(t *testing.T) {
	linked(t, func(n *network) {
		for range 3 {
			n.stopped.Store(true)
			time.Sleep(time.Minute)
			if up, lost := n.count(1); n.stopped.Load() || up != 1 || lost != nil {
				n.Fatalf("stopped: %v; up %d times, lost by %v", n.stopped.Load(), up, lost)
			}
		}
	})
}

// TestVanishedPeer: a peer from which nothing comes any more, not even the end of its connection, is given up
// at both ends after Silence, and the link comes back as soon as it can.
func TestVanishedPeer(t *testing.T) {
	linked(t, func(n *network) {
		time.Sleep(link.Heartbeat(2) / 2) // between two
		n.lose("old", true)
		time.Sleep(link.Silence(2) - link.Heartbeat(2))
		for i := range n.log {
			if _, lost := n.count(i); lost != nil {
				n.Errorf("%d: given up too early: %v", i, lost)
			}
		}
		time.Sleep(link.Heartbeat(2))
		for i := range n.log {
			if _, lost := n.count(i); len(lost) != 1 || !errors.Is(lost[0], link.ErrSilent) {
				n.Errorf("%d: lost by %v, want %v", i, lost, link.ErrSilent)
			}
		}
		n.lose("old", false)
		time.Sleep(link.HandshakeTimeout + time.Second)
		for i := range n.log {
			if up, lost := n.count(i); up != 2 || len(lost) != 1 {
				n.Errorf("%d: up %d times, lost by %v", i, up, lost)
			}
		}
	})
}

// TestMovedPeer: who has another address is dialled there at once, although the old connection hangs.
func TestMovedPeer(t *testing.T) {
	linked(t, func(n *network) {
		n.lose("old", true)
		n.mesh[1].Move([]string{"new", "b"})
		time.Sleep(100 * time.Millisecond)
		if up, lost := n.count(1); up != 2 || len(lost) != 1 || errors.Is(lost[0], link.ErrSilent) {
			n.Errorf("up %d times, lost by %v", up, lost)
		}
		n.mesh[1].Move([]string{"new", "elsewhere"}) // its own
		time.Sleep(100 * time.Millisecond)
		if up, lost := n.count(1); up != 2 || len(lost) != 1 {
			n.Errorf("up %d times, lost by %v", up, lost)
		}
	})
}

// TestMovedWhileDialled: a connection to an address that is no longer the peer's is not used.
func TestMovedWhileDialled(t *testing.T) {
	linked(t, func(n *network) {
		n.dialled = func(address string) {
			if address == "new" {
				n.mesh[1].Move([]string{"newest", "b"})
			}
		}
		n.mesh[1].Move([]string{"new", "b"})
		time.Sleep(time.Second)
		if up, _ := n.count(1); up != 2 || !slices.Equal(n.dials, []string{"old", "new", "newest"}) {
			n.Errorf("up %d times, dialled %v", up, n.dials)
		}
	})
}
