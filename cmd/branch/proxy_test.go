package main

import (
	"fmt"
	"net"
	"sync"
	"testing"
)

// proxy stands before a branch: what peers and controllers send to its port passes here.
type proxy struct {
	port, behind int
	gate         sync.RWMutex // locked: nothing passes
	wg           sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	pairs    map[*net.TCPConn]*net.TCPConn // connections, from outside and on to the branch
}

func newProxy(t *testing.T, port, behind int) *proxy {
	t.Helper()
	p := &proxy{port: port, behind: behind, pairs: map[*net.TCPConn]*net.TCPConn{}}
	t.Cleanup(func() {
		p.deafen()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// FreePort finds one that nobody listens on, from a first one on.
func FreePort(t *testing.T, port int) int {
	t.Helper()
	for ; port < 32768; port++ { // below the ports that the system gives to dialling ends
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func (p *proxy) listen(t *testing.T) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.port})
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			near, err := l.AcceptTCP()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(near) })
		}
	})
}

// deafen lets the port go; connections stay.
func (p *proxy) deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
	}
}

func (p *proxy) pass(near *net.TCPConn) {
	far, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.behind})
	if err != nil {
		_ = near.Close()
		return
	}
	p.mu.Lock()
	p.pairs[near] = far
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(far, near) })
	wg.Go(func() { p.copy(near, far) })
	wg.Wait()
	p.mu.Lock()
	delete(p.pairs, near)
	p.mu.Unlock()
}

func (p *proxy) copy(dst, src *net.TCPConn) {
	defer func() { _, _ = src.Close(), dst.Close() }()
	for buf := make([]byte, 32<<10); ; {
		n, err := src.Read(buf)
		p.gate.RLock()
		_, err2 := dst.Write(buf[:n])
		p.gate.RUnlock()
		if err != nil || err2 != nil {
			return
		}
	}
}

func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// cut resets all connections, with what is on its way, and tells how many there were.
func (p *proxy) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for near, far := range p.pairs {
		for _, c := range []*net.TCPConn{near, far} {
			_, _ = c.SetLinger(0), c.Close()
		}
	}
	return len(p.pairs)
}
