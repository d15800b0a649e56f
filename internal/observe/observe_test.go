package observe

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"cutbank/internal/judge"
	"cutbank/internal/link"
	"cutbank/internal/wire"
)

// record keeps events in the order in which they were told.
type record struct {
	mu     sync.Mutex
	events []judge.Event
}

func (r *record) observe(e judge.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// index of the n-th event like this one, or -1.
func (r *record) index(kind judge.Kind, from, n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.events {
		if e.Kind == kind && e.From == from {
			if n--; n < 0 {
				return i
			}
		}
	}
	return -1
}

// TestMesh: bytes, order and ends pass both ways; each message is told before it is handed on, with who
// sent it to whom.
func TestMesh(t *testing.T) {
	for _, delay := range []link.Delay{{}, {Min: time.Millisecond, Max: 20 * time.Millisecond}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		var seen record
		m, err := New(Config{Names: []string{"a", "b"}, Addresses: []string{"127.0.0.1:1", l.Addr().String()}, Delay: delay, Observe: seen.observe})
		if err != nil {
			t.Fatal(err)
		}
		host, port := m.Address(0, 1)
		a, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var stream []byte
		const n = 50
		for i := range uint64(n) {
			stream = wire.Append(stream, transfer(i+1))
		}
		stream = append(wire.Append(stream, marker(1)), 3, 1) // and half a frame
		sent := make(chan error, 1)
		go func() {
			for i := 0; i < len(stream); i += 7 {
				if _, err := a.Write(stream[i:min(i+7, len(stream))]); err != nil {
					sent <- err
					return
				}
			}
			sent <- a.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, stream) {
			t.Errorf("%d bytes of %d came through: %v", len(got), len(stream), err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		for i := range n + 1 {
			s, p := seen.index(judge.Sent, 0, i), seen.index(judge.Passed, 0, i)
			if s < 0 || p < s {
				t.Fatalf("message %d: sent is event %d, passed %d", i, s, p)
			}
			if e := seen.events[s]; e.To != 1 || e.Conn != 1 || e.Marker != (i == n) || i < n && e.Money != uint64(i+1) {
				t.Errorf("message %d: %+v", i, e)
			}
		}
		if _, err := b.Write(wire.Append(nil, transfer(9))); err != nil {
			t.Error(err)
		}
		_ = b.Close()
		if back, err := io.ReadAll(a); err != nil || len(back) == 0 || seen.index(judge.Passed, 1, 0) < 0 {
			t.Errorf("the other way: %x, %v", back, err)
		}
		_ = a.Close()
		m.Close(time.Minute)
		if m.Pairs() != 1 {
			t.Errorf("%d pairs", m.Pairs())
		}
	}
}

// TestConnections: so many may be open at once; one more is closed, and noted.
func TestConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var seen record
	const most = 3
	m, err := New(Config{Names: []string{"a", "b"}, Addresses: []string{"", l.Addr().String()}, Observe: seen.observe, connections: most})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(0)
	host, port := m.Address(0, 1)
	for i := range most + 1 {
		nc, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		if i < most {
			if _, err := l.Accept(); err != nil {
				t.Fatal(err)
			}
		} else if n, err := nc.Read(make([]byte, 1)); err == nil || seen.index(judge.Note, 0, 0) < 0 {
			t.Errorf("one more: %d, %v", n, err)
		}
	}
}

// TestQueue: so many chunks wait for their time, besides one at each end; then the sender waits.
func TestQueue(t *testing.T) {
	m := &Mesh{cfg: Config{Delay: link.Delay{Min: time.Hour, Max: time.Hour}, Observe: func(judge.Event) {}}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	near, src := net.Pipe()
	dst, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { m.pump(src, dst, judge.Event{}) })
	for i := range maxQueued + 2 {
		if _, err := near.Write([]byte{1}); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte{1}); err == nil {
		t.Error("one more was taken")
	}
	_ = far.Close()
	m.stop()
	_ = near.Close()
	wg.Wait()
}
