package link_test

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// delay is that of the links of linked.
var delay = link.Delay{Min: 10 * time.Millisecond, Max: 30 * time.Millisecond}

func TestParseDelay(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]link.Delay{
		"0": {}, "50ms": {Min: 50 * time.Millisecond, Max: 50 * time.Millisecond},
		"50ms-1m": {Min: 50 * time.Millisecond, Max: time.Minute},
	} {
		if d, err := link.ParseDelay(text); d != want || err != nil {
			t.Errorf("%s: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "5", "x-1s", "1s-x", "2s-1s", "-1s", "61s"} {
		if d, err := link.ParseDelay(text); err == nil {
			t.Errorf("%q: %v", text, d)
		}
	}
}

// conn is the connection of a mesh that came up last.
func (n *network) conn(at int) *link.Conn {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	var c *link.Conn
	for _, d := range n.log[at] {
		if d.Up {
			c = d.Conn
		}
	}
	return c
}

// items is how much money has come to a mesh, one item after the other, and the highest acknowledgement.
func (n *network) items(at int) (list []uint64, acked uint64) {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.log[at] {
		for _, item := range d.Items {
			list = append(list, item.Money)
		}
		acked = max(acked, d.Ack)
	}
	return list, acked
}

// TestDelay: items are held for the delay and arrive in order; what is no item overtakes them.
func TestDelay(t *testing.T) {
	linked(t, func(n *network) {
		const items = 100
		for k := range uint64(items) {
			n.conn(1).SendItems(wire.AppendAck(nil, k+1), wire.AppendItem(nil, ledger.Item{Money: k + 1}))
		}
		list, acked := n.items(0)
		if acked != items || len(list) != 0 {
			n.Errorf("at once %d items and acknowledgements of %d", len(list), acked)
		}
		time.Sleep(delay.Max)
		list, _ = n.items(0)
		for i, money := range list {
			if money != uint64(i+1) {
				n.Errorf("item %d is %d", i, money)
			}
		}
		if len(list) != items {
			n.Errorf("%d items after the longest delay", len(list))
		}
	})
}

// TestCut: a link that is cut stays down for so long, at both ends, and is dialled when it may be again.
func TestCut(t *testing.T) {
	linked(t, func(n *network) {
		n.conn(0).Send(wire.Append(nil, ready)) // a link that got so far is dialled again at once
		synctest.Wait()
		for i := range n.mesh {
			n.mesh[i].Cut(1-i, time.Second)
		}
		time.Sleep(time.Second / 2)
		if up, lost := n.count(1); up != 1 || len(lost) != 1 {
			n.Errorf("cut: up %d times, lost by %v", up, lost)
		}
		time.Sleep(time.Second)
		if up, lost := n.count(1); up != 2 || len(lost) != 1 {
			n.Errorf("then: up %d times, lost by %v", up, lost)
		}
	})
}

var ready = &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Ready{Ready: &bankpb.Ready{}}}

// TestLastWord: what CloseAfter says arrives, and then the connection ends. A link that was refused so is
// dialled again.
func TestLastWord(t *testing.T) {
	linked(t, func(n *network) {
		n.conn(0).CloseAfter(wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{
			Error: &bankpb.Error{Code: bankpb.Error_REFUSED, Message: "an old directory"},
		}}))
		time.Sleep(time.Second)
		if up, lost := n.count(1); up != 2 || len(lost) != 1 || !errors.Is(lost[0], link.ErrRefused) {
			n.Errorf("up %d times, lost by %v", up, lost)
		}
	})
}

// TestManyItems: a delivery has at most MaxDelivery items, however many are there.
func TestManyItems(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	const items = 20 * link.MaxDelivery
	var frames []byte
	for range items {
		frames = wire.AppendItem(frames, ledger.Item{Money: 1})
	}
	go func() { _, _ = far.Write(frames); _ = far.Close() }()
	c := link.Receiver(0, wire.NewReader(near, wire.MaxFrame))
	got, most := 0, 0
	if err := c.Receive(func(d link.Delivery) {
		got, most = got+len(d.Items), max(most, len(d.Items))
		d.Recycle()
	}); err == nil || got != items || most != link.MaxDelivery {
		t.Errorf("%d of %d items, at most %d at once, %v", got, items, most, err)
	}
}

// TestAnotherAnswers: who is dialled must be who answers.
func TestAnotherAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, err, _ := shake(identity(2, nil), identity(1, nil), 0, func(h *bankpb.Hello) { h.To = "b" })
		expect(t, "dialler", err, `"b" answered where a was dialled`)
		other := identity(0, func(id *link.Identity) { id.Bank[0]++ })
		_, err, _ = shake(identity(2, nil), other, 0, func(h *bankpb.Hello) { h.BankId = other.Bank[:] })
		expect(t, "dialler", err, "another bank")
	})
}

// TestClosedAtOnce: a connection may be closed before anything was read of it.
func TestClosedAtOnce(t *testing.T) {
	linked(t, func(n *network) {
		n.mu.Lock()
		n.up = func(d link.Delivery) {
			if d.Conn.Peer == 1 {
				d.Conn.Close(net.ErrClosed)
			}
		}
		n.mu.Unlock()
		n.conn(1).Close(errors.New("so that it comes up again"))
		time.Sleep(time.Second)
		up, lost := n.count(0)
		if up < 3 || len(lost) != up || !errors.Is(lost[1], net.ErrClosed) {
			n.Errorf("up %d times, lost by %v", up, lost)
		}
	})
}

// TestTakesNothing: a peer that says that it is alive, and takes nothing, is given up after WriteTimeout.
func TestTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lost error
		m := link.NewMesh(link.Config{Deliver: func(d link.Delivery) { lost = d.Lost }})
		m.Start(identity(0, nil), make([]string, 3))
		defer m.Stop()
		near, far := net.Pipe()
		go func() {
			r := wire.NewReader(near, wire.MaxFrame)
			if hello, err := r.NextMessage(); err == nil {
				_ = m.Accept(near, r, hello.GetHello(), func() {})
			}
		}()
		if err := identity(1, nil).Dial(far, wire.NewReader(far, wire.MaxFrame), 0); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for {
			if _, err := far.Write(wire.AppendAck(nil, 0)); err != nil {
				break
			}
			time.Sleep(link.Heartbeat(3) / 2)
		}
		synctest.Wait()
		if took := time.Since(began); !errors.Is(lost, os.ErrDeadlineExceeded) || errors.Is(lost, link.ErrSilent) ||
			took < link.WriteTimeout || took > link.WriteTimeout+2*link.Heartbeat(3) {
			t.Errorf("after %s: %v", took, lost)
		}
	})
}

// TestEndsInTheHandshake: a connection may end before each of its steps.
func TestEndsInTheHandshake(t *testing.T) {
	t.Parallel()
	hello := func(to string) *bankpb.Hello {
		bank := identity(1, nil).Bank
		return &bankpb.Hello{Version: link.Version, BankId: bank[:], From: "b", To: to, Nonce: make([]byte, 16)}
	}
	for what, end := range map[string]func(near, far net.Conn) error{
		"before it is dialled":  func(near, _ net.Conn) error { _ = near.Close(); return dial(near) },
		"before the hello":      func(near, _ net.Conn) error { return dial(near) }, // nobody reads it
		"before it is accepted": func(near, _ net.Conn) error { _ = near.Close(); return accept(near, hello("a")) },
		"before the answer":     func(near, _ net.Conn) error { return accept(near, hello("a")) }, // nobody reads it
		"before the proof": func(near, far net.Conn) error {
			go func() {
				_, _ = wire.NewReader(far, wire.MaxFrame).NextMessage()
				keyless := hello("c")
				_, _ = far.Write(wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: keyless}}))
				_ = far.Close()
			}()
			return identity(2, func(id *link.Identity) { id.Key = nil }).Dial(near, wire.NewReader(near, wire.MaxFrame), 1)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			if err := end(near, far); err == nil {
				t.Errorf("%s: no error", what)
			}
			_, _ = near.Close(), far.Close()
		})
	}
}

func dial(nc net.Conn) error {
	return identity(2, nil).Dial(nc, wire.NewReader(nc, wire.MaxFrame), 0)
}

func accept(nc net.Conn, hello *bankpb.Hello) error {
	_, err := identity(0, nil).Accept(nc, wire.NewReader(nc, wire.MaxFrame), hello)
	return err
}

// TestDialsAgain: without another way to dial it is TCP, and who hangs up is dialled again.
func TestDialsAgain(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	failed := make(chan string, 100)
	m := link.NewMesh(link.Config{
		Failed: func(peer string, _ error) {
			select {
			case failed <- peer:
			default:
			}
		},
		Dial: func(ctx context.Context, address, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	})
	m.Start(identity(1, nil), []string{l.Addr().String(), "", ""})
	defer m.Stop()
	for i := range 2 {
		nc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		hello, err := wire.NewReader(nc, wire.MaxFrame).NextMessage()
		if err != nil || hello.GetHello().GetFrom() != m.Identity().Names[1] {
			t.Errorf("dial %d: %v, %v", i, hello, err)
		}
		_ = nc.Close()
		if peer := <-failed; peer != "a" {
			t.Errorf("%s failed", peer)
		}
	}
}
