// Package supervise starts child processes, watches them and starts them again. It knows nothing of
// what they do: only lifecycle passes between it and them.
//
//	starting → ready ⇄ suspect → stopping → backoff → starting
//	                                          └→ failed (tried again every minute)
//
// One goroutine owns each child. What happens is told as typed events; log lines, tables and pages
// are renderings of them.
//
// Invariant: a child's next process is started only after the exit of the one before it was seen;
// when Run returns none is left.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// State of a child.
type State string

// States of a child.
const (
	Starting State = "starting" // until the first healthy answer
	Running  State = "running"  // healthy, not ready yet
	Ready    State = "ready"
	Suspect  State = "suspect" // a health check was missed
	Stopping State = "stopping"
	Backoff  State = "backoff"
	Failed   State = "failed"
	Stopped  State = "stopped"
)

// Event is a change of a child.
type Event struct {
	Child    string
	State    State
	PID      int           // of the process that it is about
	Exit     string        // how the process ended, in words
	Delay    time.Duration // until the next start
	Restarts int           // starts after the first
	Down     time.Duration // with Ready: since the exit of the process before; 0 at the first start
}

// Child is what to run.
type Child struct {
	Name string
	Path string
	Args []string
	Log  string // file that the child logs to, as hclog JSON
}

// Config of a Supervisor.
type Config struct {
	Children []Child
	Sockets  string // private directory with a short path, 0700
	Logger   hclog.Logger
	OnEvent  func(Event)   // called from several goroutines; must not block
	Stop     time.Duration // how long a child may take to end when asked to; 5 s
	Start    time.Duration // how long a child may take to the first healthy answer; 60 s
}

// Validate fills in defaults and says what is wrong.
func (c *Config) Validate() error {
	if len(c.Children) == 0 || c.Sockets == "" || c.Logger == nil {
		return errors.New("supervise: children, a directory for sockets and a logger are needed")
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.Stop == 0 {
		c.Stop = 5 * time.Second
	}
	if c.Start == 0 {
		c.Start = time.Minute
	}
	return nil
}

// Status is a child as it is now.
type Status struct {
	Name     string
	State    State
	PID      int // 0: no process
	Restarts int
	LastExit string
}

// Supervisor runs children. Make it with New, then Run it once.
type Supervisor struct {
	cfg Config

	mu     sync.Mutex
	status []Status
}

// New checks the configuration.
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Supervisor{cfg: cfg, status: make([]Status, len(cfg.Children))}
	for i, c := range cfg.Children {
		s.status[i] = Status{Name: c.Name, State: Stopped}
	}
	return s, nil
}

// Status of all children, in order.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Status(nil), s.status...)
}

// Run starts all children and keeps them running until the context ends; then it asks them to end
// (SIGTERM), all at once, and kills those that are still up after Config.Stop.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Sockets, 0o700); err != nil {
		return fmt.Errorf("directory for sockets: %w", err)
	}
	var wg sync.WaitGroup
	for i := range s.cfg.Children {
		wg.Go(func() { s.keep(ctx, i) })
	}
	wg.Wait()
	return nil
}

// keep is the goroutine that owns child i.
func (s *Supervisor) keep(ctx context.Context, i int) {
	c := s.cfg.Children[i]
	var failures, early, restarts int
	var diedAt time.Time
	for {
		p := &process{cfg: &s.cfg, child: c, restarts: restarts, diedAt: diedAt, tell: func(e Event) { s.tell(i, e) }}
		p.run(ctx)
		diedAt = time.Now()
		if ctx.Err() != nil {
			s.tell(i, Event{State: Stopped, PID: p.pid, Exit: p.exit, Restarts: restarts})
			return
		}
		switch {
		case !p.readyAt.IsZero():
			early = 0
			if diedAt.Sub(p.readyAt) > forgetAfter {
				failures = 0
			}
		case !p.killed:
			early++
		}
		if p.killed {
			failures = min(failures, 1)
		}
		failures++
		v := decide(failures, early)
		delay := v.delay
		if !v.failed && delay > 0 {
			delay = rand.N(delay) //nolint:gosec // jitter
		}
		state := Backoff
		if v.failed {
			state = Failed
		}
		s.tell(i, Event{State: state, PID: p.pid, Exit: p.exit, Delay: delay, Restarts: restarts})
		select {
		case <-ctx.Done():
			s.tell(i, Event{State: Stopped, Exit: p.exit, Restarts: restarts})
			return
		case <-time.After(delay):
		}
		restarts++
	}
}

// tell records and passes on what happened to child i.
func (s *Supervisor) tell(i int, e Event) {
	e.Child = s.cfg.Children[i].Name
	s.mu.Lock()
	st := &s.status[i]
	st.State, st.Restarts = e.State, e.Restarts
	st.PID = e.PID
	if e.Exit != "" {
		st.PID, st.LastExit = 0, e.Exit
	}
	s.mu.Unlock()
	s.cfg.OnEvent(e)
}
