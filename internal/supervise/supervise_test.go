package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/lifecycle"
)

// fakeHost has processes that live in this test, in virtual time.
type fakeHost struct {
	mu   sync.Mutex
	next int
	live map[string]*fakeProcess
	deaf bool  // new processes ignore SIGTERM
	err  error // of the next starts
}

type fakeProcess struct {
	host    *fakeHost
	name    string
	id      int
	deaf    bool
	old     bool
	mu      sync.Mutex
	stopped bool
	ended   chan struct{}
	left    chan struct{}
	how     exit
}

func (h *fakeHost) dial(context.Context, string) bool { return true }

func (h *fakeHost) start(c Child) (process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	if p := h.live[c.Name]; p != nil {
		p.old, p.left = true, make(chan struct{})
		return p, nil
	}
	h.next++
	p := &fakeProcess{host: h, name: c.Name, id: h.next, deaf: h.deaf, ended: make(chan struct{}), left: make(chan struct{})}
	h.live[c.Name] = p
	return p, nil
}

func (p *fakeProcess) pid() int                { return p.id }
func (p *fakeProcess) adopted() (string, bool) { return "", p.old }
func (p *fakeProcess) leave()                  { close(p.left) }

func (p *fakeProcess) check(limit time.Duration) lifecycle.Answer {
	p.mu.Lock()
	stopped := p.stopped
	p.mu.Unlock()
	if stopped {
		time.Sleep(limit)
		return lifecycle.Answer{}
	}
	time.Sleep(time.Millisecond)
	return lifecycle.Answer{Alive: true, Ready: true}
}

func (p *fakeProcess) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s == syscall.SIGSTOP || s == syscall.SIGCONT:
		p.stopped = s == syscall.SIGSTOP
	case s == syscall.SIGKILL:
		p.end(exit{words: "signal killed", cause: Killed})
	case !p.deaf && !p.stopped:
		p.end(exit{words: "ended in order", cause: InOrder})
	}
}

func (p *fakeProcess) end(x exit) {
	select {
	case <-p.ended:
		return
	default:
	}
	p.how = x
	p.host.mu.Lock()
	delete(p.host.live, p.name)
	p.host.mu.Unlock()
	close(p.ended)
}

func (p *fakeProcess) wait() exit {
	select {
	case <-p.ended:
		return p.how
	case <-p.left:
		return exit{}
	}
}

// virtual runs a supervisor over a fake host in a bubble.
func virtual(t *testing.T, h *fakeHost, cfg Config, n int) (s *Supervisor, stop func()) {
	t.Helper()
	for i := range n {
		cfg.Children = append(cfg.Children, Child{Name: fmt.Sprintf("child%d", i)})
	}
	cfg.Sockets, cfg.Logger = t.TempDir(), hclog.NewNullLogger()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := newSupervisor(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	return s, func() { cancel(); <-done }
}

func (s *Supervisor) in(state State) (n int) {
	for _, st := range s.Status() {
		if st.State == state {
			n++
		}
	}
	return n
}

// TestVirtualLife drives the whole supervisor by its methods, in virtual time, without a process.
func TestVirtualLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{live: map[string]*fakeProcess{}}
		s, stop := virtual(t, h, Config{}, 256)
		time.Sleep(time.Second)
		if n := s.in(Ready); n != 256 {
			t.Fatalf("%d of 256 are ready", n)
		}
		if err := errors.Join(s.Kill("child3"), s.Hang("child4"), s.Pause("child5"), s.Restart("child6"), s.Reset("child7")); err != nil {
			t.Fatal(err)
		}
		if s.Kill("nobody") == nil || s.Resume("child3") == nil {
			t.Error("what can't be is accepted")
		}
		time.Sleep(10 * time.Second) // 256 children are checked every second
		want := map[string]Status{
			"child3": {State: Ready, Restarts: 1, Causes: map[Cause]int{Asked: 1}},
			"child4": {State: Ready, Restarts: 1, Causes: map[Cause]int{Hung: 1}},
			"child5": {State: Paused, Paused: true},
			"child6": {State: Ready, Restarts: 1, Causes: map[Cause]int{Asked: 1}},
			"child7": {State: Ready},
		}
		for _, st := range s.Status() {
			w := want[st.Name]
			if w.State == "" {
				w.State = Ready
			}
			if st.State != w.State || st.Restarts != w.Restarts || st.Paused != w.Paused || fmt.Sprint(st.Causes) != fmt.Sprint(w.Causes) {
				t.Errorf("%+v, want %+v", st, w)
			}
		}
		stop()
		if n := s.in(Stopped); n != 256 || len(h.live) != 0 {
			t.Errorf("%d of 256 stopped, %d processes left", n, len(h.live))
		}
		if s.Kill("child3") == nil {
			t.Error("a request after the end")
		}
	})
}

// TestNobodyListens: supervision does not wait for who is told, nor for who takes the logs.
func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{live: map[string]*fakeProcess{}}
		held := make(chan struct{})
		s, stop := virtual(t, h, Config{OnEvent: func(Event) { <-held }}, 2)
		time.Sleep(time.Second)
		for range eventsKept { // each is five events
			if err := s.Kill("child1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if st := s.Status()[1]; st.State != Ready || st.Restarts < eventsKept {
			t.Errorf("%+v", st)
		}
		go func() { time.Sleep(time.Second); close(held) }()
		stop()
	})
	log := filepath.Join(t.TempDir(), "log")
	held := make(chan struct{})
	followed := tailLog(log, hclog.New(&hclog.LoggerOptions{Output: heldUp{held}}), func(string) {})
	if err := os.WriteFile(log, []byte("a line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	followed.stop()
	close(held)
}

// heldUp is a writer that waits.
type heldUp struct{ until chan struct{} }

func (w heldUp) Write(b []byte) (int, error) {
	<-w.until
	return len(b), nil
}

// TestVirtualStop: all are asked at once, the deaf ones killed after Stop, or at once by KillAll.
func TestVirtualStop(t *testing.T) {
	for _, force := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := &fakeHost{live: map[string]*fakeProcess{}, deaf: true}
			s, stop := virtual(t, h, Config{}, 8)
			time.Sleep(time.Second)
			began, want := time.Now(), DefaultStop
			if force {
				want = time.Second
				go func() { time.Sleep(time.Second); s.KillAll() }()
			}
			stop()
			if took := time.Since(began); took != want || len(h.live) != 0 {
				t.Errorf("took %s, want %s; %d left", took, want, len(h.live))
			}
		})
	}
}

// TestLeave: the processes live on, and the next supervisor adopts them; what was paused stays paused.
func TestLeave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{live: map[string]*fakeProcess{}}
		s, stop := virtual(t, h, Config{StateFile: file}, 4)
		time.Sleep(time.Second)
		if err := s.Pause("child1"); err != nil {
			t.Fatal(err)
		}
		before := s.Status()
		s.Leave()
		stop()
		if len(h.live) != 4 {
			t.Fatalf("%d live on", len(h.live))
		}
		s, stop = virtual(t, h, Config{StateFile: file}, 4)
		time.Sleep(time.Minute)
		for i, st := range s.Status() {
			if st.PID != before[i].PID || !st.Adopted || st.Restarts != 0 || st.Paused != (i == 1) || (st.State == Paused) != (i == 1) {
				t.Errorf("%+v was %+v", st, before[i])
			}
		}
		stop()
		if len(h.live) != 0 {
			t.Errorf("%d left", len(h.live))
		}
	})
	if content, err := os.ReadFile(file); err != nil || string(content) != "{\"paused\":[]}\n" {
		t.Errorf("state file: %q, %v", content, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Children: []Child{{Name: "a"}}, Sockets: "x", StateFile: file, Logger: hclog.NewNullLogger()}); err == nil {
		t.Error("a broken state file is accepted")
	}
}
