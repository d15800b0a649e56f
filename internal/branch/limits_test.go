package branch_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// pipes is a listener whose connections are in memory, so that time is virtual.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.accept:
		return nc, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial is the far end of a new connection from an address.
func (p *pipes) dial(address string) net.Conn {
	near, remote := net.Pipe()
	p.accept <- from{near, address}
	return remote
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), closed: make(chan struct{})} }

// from is a connection from an address.
type from struct {
	net.Conn
	address string
}

func (f from) RemoteAddr() net.Addr { a, _ := net.ResolveTCPAddr("tcp", f.address+":1"); return a }

// far is the other end of a connection in virtual time.
type far struct {
	nc     net.Conn
	closed atomic.Bool
}

// virtual runs a branch of a bank without a key, in virtual time; dial connects to it from an address.
// An end that listens reads what comes and notes the close.
func virtual(t *testing.T, opened bool, f func(tb testing.TB, dial func(address string, listens bool) *far)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		b, err := branch.New(context.Background(), branch.Config{Name: "branch1", Listener: p, Interval: time.Hour, Logger: hclog.NewNullLogger()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = b.Run(ctx) })
		var ends []*far
		dial := func(address string, listens bool) *far {
			remote := p.dial(address)
			end := &far{nc: remote}
			ends = append(ends, end)
			if listens {
				running.Go(func() {
					for buf := make([]byte, 1<<16); ; {
						if _, err := remote.Read(buf); err != nil {
							end.closed.Store(true)
							return
						}
					}
				})
			}
			synctest.Wait()
			return end
		}
		if opened {
			end := dial("192.0.2.200", true)
			end.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{
				Balance: 1000, AllBranches: []*bankpb.InitBranch_Branch{{Name: "branch1", Ip: "127.0.0.1", Port: 1}, {Name: "branch2", Ip: "127.0.0.1", Port: 1}},
			}}})
			_ = end.nc.Close()
		}
		f(t, dial)
		cancel()
		for _, end := range ends {
			_ = end.nc.Close()
		}
		running.Wait()
	})
}

func (f *far) send(m *bankpb.BranchMessage) {
	_, _ = f.nc.Write(wire.Append(nil, m))
	synctest.Wait()
}

// after says how many of the ends are closed after a time.
func after(d time.Duration, ends ...*far) (closed int) {
	time.Sleep(d)
	synctest.Wait()
	for _, e := range ends {
		if e.closed.Load() {
			closed++
		}
	}
	return closed
}

func statusRequest() *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}}
}

// TestStrangers: who shows nothing has two seconds, a number of places for each address and in all, and
// never keeps another out.
func TestStrangers(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		virtual(t, true, func(tb testing.TB, dial func(string, bool) *far) {
			tb.Helper()
			end := dial("192.0.2.1", true)
			if after(link.HandshakeTimeout-time.Millisecond, end) != 0 || after(2*time.Millisecond, end) != 1 {
				tb.Error("silence is not ended at the handshake's timeout")
			}
		})
	})
	for name, test := range map[string]struct {
		most      int
		addresses int
	}{"of an address": {branch.MaxStrangersPerAddress, 1}, "in all": {branch.MaxStrangers, 5}} {
		t.Run(name, func(t *testing.T) {
			virtual(t, true, func(tb testing.TB, dial func(string, bool) *far) {
				tb.Helper()
				var ends []*far
				for i := range test.most {
					ends = append(ends, dial(fmt.Sprintf("192.0.2.%d", i%test.addresses), true))
				}
				if n := after(0, ends...); n != 0 {
					tb.Errorf("%d closed at the limit", n)
				}
				client := dial("192.0.2.0", true)
				client.send(statusRequest())
				if after(0, ends...) != 1 || !ends[0].closed.Load() || after(0, client) != 0 {
					tb.Errorf("one beyond the limit closes %d, first %v", after(0, ends...), ends[0].closed.Load())
				}
			})
		})
	}
}

// TestClients: the client that was idle longest makes room for one more.
func TestClients(t *testing.T) {
	virtual(t, true, func(tb testing.TB, dial func(string, bool) *far) {
		tb.Helper()
		var ends []*far
		for range branch.MaxClients {
			end := dial("192.0.2.1", true)
			end.send(statusRequest())
			ends = append(ends, end)
		}
		if n := after(time.Hour, ends...); n != 0 {
			tb.Errorf("%d closed at the limit, in an hour", n)
		}
		ends[0].send(statusRequest())
		dial("192.0.2.2", true).send(statusRequest())
		if after(0, ends...) != 1 || !ends[1].closed.Load() {
			tb.Errorf("one beyond the limit closes %d, the idle one %v", after(0, ends...), ends[1].closed.Load())
		}
	})
}

// TestFrames: few may send a large frame at a time, and none may take its time.
func TestFrames(t *testing.T) {
	t.Run("large", func(t *testing.T) {
		virtual(t, false, func(tb testing.TB, dial func(string, bool) *far) {
			tb.Helper()
			part := append(binary.AppendUvarint(nil, wire.MaxRosterFrame), 10)
			part = append(part, make([]byte, 2*wire.MaxFrame)...)
			var ends []*far
			for range branch.MaxLarge + 1 {
				if n := after(0, ends...); n != 0 {
					tb.Errorf("%d closed of %d", n, len(ends))
				}
				end := dial("192.0.2.1", true)
				_, _ = end.nc.Write(part)
				ends = append(ends, end)
			}
			if after(0, ends...) != 1 || !ends[0].closed.Load() {
				tb.Errorf("one beyond the limit closes %d", after(0, ends...))
			}
		})
	})
	t.Run("slow", func(t *testing.T) {
		virtual(t, true, func(tb testing.TB, dial func(string, bool) *far) {
			tb.Helper()
			end := dial("192.0.2.1", true)
			end.send(statusRequest())
			_ = after(time.Hour)
			frame := wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{Error: &bankpb.Error{Message: strings.Repeat("x", 100)}}})
			for i := range 9 { // a byte a second
				_, _ = end.nc.Write(frame[i : i+1])
				if after(time.Second, end) != 0 {
					tb.Errorf("closed after %d s", i)
				}
			}
			if after(time.Second+time.Millisecond, end) != 1 {
				tb.Error("a frame may take longer than its timeout")
			}
		})
	})
	t.Run("answers that nobody reads", func(t *testing.T) {
		virtual(t, true, func(tb testing.TB, dial func(string, bool) *far) {
			tb.Helper()
			end := dial("192.0.2.1", false)
			end.send(statusRequest())
			_ = after(link.WriteTimeout + time.Millisecond)
			if _, err := end.nc.Write([]byte{0}); err == nil {
				tb.Error("an answer may wait longer than the write timeout")
			}
			end = dial("192.0.2.1", false)
			sent := 0
			for ; sent < 1000; sent++ {
				if _, err := end.nc.Write(wire.Append(nil, statusRequest())); err != nil {
					break
				}
				synctest.Wait()
			}
			if sent != 258 { // one in the writer, 256 in the queue, and the one that closes it
				tb.Errorf("%d requests were taken", sent)
			}
		})
	})
}

// TestRefusalsAreBounded: a flood of refusals is a few lines and a count.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLone(t, true, true)
		for range 100 {
			c := l.dial()
			c.send(statusRequest())
			if got := c.answer(); got != "error" {
				t.Errorf("answered with %s", got)
			}
			_ = c.nc.Close()
		}
		if n := strings.Count(l.log.String(), "\n"); n != 20 {
			t.Errorf("%d lines:\n%s", n, l.log)
		}
	})
}

// TestLargestBank: a branch of the largest bank with the longest names is opened, and asked by a controller.
func TestLargestBank(t *testing.T) {
	t.Parallel()
	synctest.Test(t, largestBank)
}

func largestBank(t *testing.T) {
	p := newPipes()
	startBranch(t, "branch1", func(c *branch.Config) { c.Listener = p })
	init := &bankpb.InitBranch{Balance: 1, Plan: &bankpb.Plan{
		BankId: make([]byte, 16), Key: make([]byte, 32), Total: ledger.MaxBranches,
	}}
	for i := range ledger.MaxBranches {
		name := fmt.Sprintf("branch%d", i+1)
		if i > 0 {
			name += strings.Repeat("x", roster.MaxNameBytes-len(name))
		}
		init.AllBranches = append(init.AllBranches, &bankpb.InitBranch_Branch{Name: name, Ip: strings.Repeat(strings.Repeat("h", 62)+".", 4) + "h", Port: 1})
		init.Plan.Balances = append(init.Plan.Balances, 1)
	}
	ask := func(c *plainClient, m *bankpb.BranchMessage) {
		t.Helper()
		c.send(m)
		got := c.receive()
		if s := got.GetStatus_(); len(s.GetRoster()) != ledger.MaxBranches || len(s.GetLinks()) != ledger.MaxBranches-1 {
			t.Errorf("%s %v; %d branches, %d links", kind(got), got.GetError(), len(s.GetRoster()), len(s.GetLinks()))
		}
	}
	dial := func() *plainClient {
		nc := p.dial("192.0.2.1")
		t.Cleanup(func() { _ = nc.Close() })
		return &plainClient{t, nc, wire.NewReader(nc, wire.MaxRosterFrame)}
	}
	ask(dial(), &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: init}})

	c, nonce := dial(), make([]byte, 16)
	c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: &bankpb.Attach{Version: link.Version, Nonce: nonce}}})
	mac := link.ControllerMAC(init.GetPlan().GetKey(), nonce, c.receive().GetChallenge().GetNonce(), init.GetPlan().GetBankId(), "branch1")
	ask(c, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Prove{Prove: &bankpb.Prove{Mac: mac, AllBranches: init.GetAllBranches()}}})
}
