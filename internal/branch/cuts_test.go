package branch_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

// cutter is a proxy before one branch that cuts its connections at random byte positions, or lets them vanish.
type cutter struct {
	vanished atomic.Int64 // how often all connections of that time have begun to swallow what comes
	target   string
	left     *atomic.Int64 // cuts to make
	made     *atomic.Int64
	open     atomic.Int64
	total    *atomic.Int64 // open at all proxies
	peak     *atomic.Int64 // the most that total was
}

func (p *cutter) count(n int64) {
	p.open.Add(n)
	now := p.total.Add(n)
	peak := p.peak.Load()
	for now > peak && !p.peak.CompareAndSwap(peak, now) {
		peak = p.peak.Load()
	}
}

// serve passes connections on until the listener is closed.
func (p *cutter) serve(l net.Listener, wg *sync.WaitGroup, ended <-chan struct{}) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			far, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = near.Close()
				return
			}
			p.count(1)
			defer p.count(-1)
			p.pass(near, far, ended)
		})
	}
}

// pass copies both ways; while there are cuts to make, one way ends after so many bytes.
func (p *cutter) pass(near, far net.Conn, ended <-chan struct{}) {
	var once sync.Once
	closed := make(chan struct{})
	end := func() {
		once.Do(func() {
			close(closed)
			_, _ = near.Close(), far.Close()
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ended:
		case <-closed:
		}
		end()
	})
	limits := [2]int64{1 << 62, 1 << 62}
	if p.left.Load() > 0 {
		limits[rand.N(2)] = 1 + rand.Int64N(4000)
	}
	born := p.vanished.Load()
	gone := func() bool { return p.vanished.Load() != born }
	copyOne := func(dst, src net.Conn, limit int64) {
		n, _ := io.CopyN(dst, swallower{src, gone}, limit)
		if gone() {
			_ = src.Close() // the other end does not hear of it
			return
		}
		if n == limit && p.left.Add(-1) >= 0 {
			p.made.Add(1)
		}
		end()
	}
	wg.Go(func() { copyOne(far, near, limits[0]) })
	wg.Go(func() { copyOne(near, far, limits[1]) })
	wg.Wait()
}

// swallower reads from a connection, and when that is gone waits only for its end.
type swallower struct {
	net.Conn
	gone func() bool
}

func (s swallower) Read(b []byte) (int, error) {
	for {
		n, err := s.Conn.Read(b)
		if err != nil || !s.gone() {
			return n, err
		}
	}
}

// TestVanished: a connection that vanishes while both ends pay, so that neither hears of its end, is given up
// by both and made again; the books add up.
func TestVanished(t *testing.T) {
	t.Parallel()
	var left, made atomic.Int64
	b, proxies := newProxied(t, 2, &left, &made)
	b.initiate(0, 1)
	b.retrieve(1)
	proxies[0].vanished.Add(1)
	b.initiate(0, 2)
	b.retrieve(2) // its markers need the link
	b.drained()
}

// TestCuts: links that are cut at random bytes while all pay lose no cent and double none, in any
// snapshot and at the end.
func TestCuts(t *testing.T) {
	for name, test := range map[string]struct{ branches, cuts int }{
		"pair": {2, 300}, "mesh": {4, 300},
	} {
		t.Run(name, func(t *testing.T) {
			cuts := test.cuts
			if testing.Short() {
				cuts /= 3
			}
			var left, made atomic.Int64
			left.Store(int64(cuts))
			b, proxies := newProxied(t, test.branches, &left, &made)
			id := uint64(0)
			deadline := time.Now().Add(10 * time.Minute)
			for made.Load() < int64(cuts) {
				if time.Now().After(deadline) {
					t.Fatalf("%d cuts of %d", made.Load(), cuts)
				}
				id++
				b.initiate(int(id)%test.branches, id)
				b.retrieve(id)
			}
			b.drained()
			if got := made.Load(); got != int64(cuts) {
				t.Errorf("%d cuts, want %d", got, cuts)
			}
			t.Logf("%d cuts, %d snapshots", made.Load(), id)
			b.connections(proxies, test.branches*(test.branches-1)/2)
		})
	}
}

// TestOneConnectionPerPair counts N(N-1)/2 connections from the outside: when all are up, and never
// more than that while all pay and snapshots are taken.
func TestOneConnectionPerPair(t *testing.T) {
	var left, made atomic.Int64
	b, proxies := newProxied(t, 8, &left, &made)
	b.initiate(0, 1)
	b.retrieve(1) // all links are up, or no marker would have come
	b.connections(proxies, 28)
	proxies[0].peak.Store(28) // what was refused while branches were being opened does not count
	for id := uint64(2); id < 30; id++ {
		b.initiate(int(id)%8, id)
		b.retrieve(id)
	}
	b.drained()
	b.connections(proxies, 28)
	if peak := proxies[0].peak.Load(); peak != 28 {
		t.Errorf("up to %d connections between branches, want 28", peak)
	}
}

// newProxied is a bank whose branches find each other through cutters.
func newProxied(t *testing.T, n int, left, made *atomic.Int64) (*bank, []*cutter) {
	t.Helper()
	var proxies []*cutter
	var total, peak atomic.Int64
	var wg sync.WaitGroup
	ended := make(chan struct{})
	var listeners []net.Listener
	t.Cleanup(func() {
		close(ended)
		for _, l := range listeners {
			_ = l.Close()
		}
		wg.Wait()
	})
	b := newBankAt(t, n, 0, link.Delay{}, func(address string) int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := &cutter{target: address, left: left, made: made, total: &total, peak: &peak}
		proxies, listeners = append(proxies, p), append(listeners, l)
		wg.Go(func() { p.serve(l, &wg, ended) })
		return l.Addr().(*net.TCPAddr).Port
	})
	return b, proxies
}

// connections waits until so many go through the proxies.
func (b *bank) connections(proxies []*cutter, want int) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var open int64
		for _, p := range proxies {
			open += p.open.Load()
		}
		if open == int64(want) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d connections between branches, want %d", open, want)
		}
		time.Sleep(time.Millisecond)
	}
}

// drained stops all transfers, waits for the outboxes, and sums the balances alone.
func (b *bank) drained() {
	b.t.Helper()
	stopped := true
	ask := func(c *plainClient) *bankpb.Status {
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{
			GetStatus: &bankpb.GetStatus{Settings: &bankpb.Settings{Stopped: &stopped}},
		}})
		return c.receive().GetStatus_()
	}
	for _, c := range b.clients {
		ask(c)
	}
	var sum uint64
	deadline := time.Now().Add(time.Minute)
	for _, c := range b.clients {
		for waiting := true; waiting; {
			s := ask(c)
			waiting = !s.GetReady()
			for _, l := range s.GetLinks() {
				waiting = waiting || l.GetUnacknowledged() > 0
			}
			if waiting && time.Now().After(deadline) {
				b.t.Fatalf("never drained: %v", s)
			}
		}
	}
	for _, c := range b.clients {
		sum += ask(c).GetBalance()
	}
	if want := uint64(1000 * len(b.clients)); sum != want {
		b.t.Errorf("drained balances are %d, the total is %d", sum, want)
	}
}
