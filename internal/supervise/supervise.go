// Package supervise starts child processes, watches them and starts them again. It knows nothing of
// what they do: only lifecycle passes between it and them.
//
//	starting → running → ready ⇄ suspect → stopping → backoff → starting
//	                       ⇅                              └→ failed (tried again every minute)
//	                     paused         remote ⇄ away (not ours to start)
//
// One goroutine owns each child: it feeds the child's machine, which is pure, with what it sees and
// does what the machine wants done. Processes are behind the interface host, the clock is the caller's.
// What happens is told as typed events; log lines, tables and pages are renderings of them.
//
// Children outlive a supervisor that dies or leaves: the next one finds each by the lock file of its
// directory and adopts it.
//
// Invariant: a child's next process is started only after the exit of the one before it was seen; when
// Run returns, and nobody asked to Leave, none is left.
package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/lifecycle"
)

// Child is what to run.
type Child struct {
	Name   string
	Path   string
	Args   []string
	Dir    string // the directory that it locks (file "lock"); by it a living process is found
	Log    string // file that it logs to, as hclog JSON
	Addr   string // host:port of TCP that it serves: watched when the process is not ours
	Remote bool   // on another machine: waited for, watched, never started
}

// Config of a Supervisor.
type Config struct {
	Children  []Child
	Sockets   string // private directory: lifecycle.SocketDir
	StateFile string // keeps what users paused; empty: forgotten
	Logger    hclog.Logger
	OnEvent   func(Event)   // called by one goroutine; supervision does not wait for it, and drops what is too much
	Stop      time.Duration // how long a child may take to end when asked to; 5 s
	Start     time.Duration // how long a child may take to the first healthy answer; 60 s
}

// DefaultStop is how long a process may take to end when it is asked to.
const DefaultStop = 5 * time.Second

// Validate fills in defaults and says what is wrong.
func (c *Config) Validate() error {
	if len(c.Children) == 0 || c.Sockets == "" || c.Logger == nil {
		return errors.New("supervise: children, a directory for sockets and a logger are needed")
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.Stop == 0 {
		c.Stop = DefaultStop
	}
	if c.Start == 0 {
		c.Start = time.Minute
	}
	return nil
}

// How many events wait for OnEvent: more are dropped. It may be held up by a terminal or a pipe that nobody reads.
const (
	eventsKept     = 256
	eventsPerChild = 16
)

// host starts and finds processes.
type host interface {
	// start finds the child's living process or starts one. Error: *lifecycle.HeldError, or it could not
	// be started.
	start(c Child) (process, error)
	// dial tells whether something serves the address.
	dial(ctx context.Context, addr string) bool
}

// process is a running child.
type process interface {
	pid() int
	adopted() (note string, ok bool)
	check(limit time.Duration) lifecycle.Answer // returns within the limit
	signal(s syscall.Signal)
	wait() exit // until it has ended, then cleans up after it; or until leave
	leave()
}

// Supervisor runs children. Make it with New, then Run it once. Safe for concurrent use.
type Supervisor struct {
	cfg     Config
	host    host
	keepers []*keeper
	leaving atomic.Bool
	events  chan Event // to be told

	mu     sync.Mutex
	status []Status
	paused map[string]bool
}

// New checks the configuration and reads the state file.
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return newSupervisor(cfg, &realHost{&cfg})
}

func newSupervisor(cfg Config, h host) (*Supervisor, error) {
	s := &Supervisor{
		cfg: cfg, host: h, paused: make(map[string]bool), events: make(chan Event, eventsKept+eventsPerChild*len(cfg.Children)),
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	for i, c := range cfg.Children {
		k := &keeper{s: s, index: i, child: c, inbox: make(chan message), ended: make(chan struct{}), m: machine{
			name: c.Name, index: i, of: len(cfg.Children), addr: c.Addr, remote: c.Remote, start: cfg.Start, stop: cfg.Stop,
			jitter:       func(d time.Duration) time.Duration { return rand.N(d) }, //nolint:gosec // jitter
			pausedWanted: s.paused[c.Name],
			status:       Status{Name: c.Name, State: Stopped, Causes: make(map[Cause]int)},
		}}
		s.keepers = append(s.keepers, k)
		s.status = append(s.status, Status{Name: c.Name, State: Stopped})
	}
	return s, nil
}

// state is the state file.
type state struct {
	Paused []string `json:"paused"`
}

func (s *Supervisor) load() error {
	content, err := os.ReadFile(s.cfg.StateFile)
	if s.cfg.StateFile == "" || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var st state
	if err == nil {
		err = json.Unmarshal(content, &st)
	}
	if err != nil {
		return fmt.Errorf("state of the launcher, %s: %w: remove it to forget which branches were paused", s.cfg.StateFile, err)
	}
	for _, name := range st.Paused {
		s.paused[name] = true
	}
	return nil
}

// save keeps whether a child is paused at a user's request.
func (s *Supervisor) save(name string, paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.paused, name)
	if paused {
		s.paused[name] = true
	}
	if s.cfg.StateFile == "" {
		return
	}
	st := state{Paused: []string{}}
	for name := range s.paused {
		st.Paused = append(st.Paused, name)
	}
	slices.Sort(st.Paused)
	content, _ := json.Marshal(st)
	temporary := s.cfg.StateFile + ".new"
	err := lifecycle.WriteFile(temporary, append(content, '\n'))
	if err == nil {
		err = os.Rename(temporary, s.cfg.StateFile)
	}
	if err != nil {
		s.cfg.Logger.Warn("state of the launcher not written", "err", err)
	}
}

// Status of all children, in order.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.status)
}

// Kill sends SIGKILL to the child's process, which is then started again. Error: there is no such child,
// or it has no process.
func (s *Supervisor) Kill(name string) error { return s.ask(name, verbKill) }

// Strike is a Kill that is counted apart, as chaos.
func (s *Supervisor) Strike(name string) error { return s.ask(name, verbStrike) }

// Hang stops the child's process behind the supervisor's back, which has to find out. Errors as Kill.
func (s *Supervisor) Hang(name string) error { return s.ask(name, verbHang) }

// Pause stops the child's process until Resume, also across a restart of the supervisor. Errors as Kill.
func (s *Supervisor) Pause(name string) error { return s.ask(name, verbPause) }

// Resume lets a paused child go on. Error: it is not paused.
func (s *Supervisor) Resume(name string) error { return s.ask(name, verbResume) }

// Restart ends the child's process in order and starts it again. Error: it is not ours to start.
func (s *Supervisor) Restart(name string) error { return s.ask(name, verbRestart) }

// Reset forgets the child's failures; one that waits for its next start is started at once, and so is
// one whose directory somebody else had. Error: it is not on this machine.
func (s *Supervisor) Reset(name string) error { return s.ask(name, verbReset) }

// KillAll ends a stop that takes too long: all processes are killed at once, and not started again.
func (s *Supervisor) KillAll() {
	for _, k := range s.keepers {
		_ = k.ask(verbAbort)
	}
}

// Leave makes Run leave the processes alone when its context ends.
func (s *Supervisor) Leave() { s.leaving.Store(true) }

func (s *Supervisor) ask(name string, v verb) error {
	for _, k := range s.keepers {
		if k.child.Name == name {
			return k.ask(v)
		}
	}
	var names []string
	for _, k := range s.keepers[:min(len(s.keepers), 16)] {
		names = append(names, k.child.Name)
	}
	return fmt.Errorf("there is no %q among %s", name, strings.Join(names, ", "))
}

// Run adopts or starts all children and keeps them running until the context ends; then it asks them to
// end (SIGTERM), all at once, and kills those that are still up after Config.Stop.
func (s *Supervisor) Run(ctx context.Context) {
	Sweep(s.cfg.Sockets, s.cfg.Children)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for e := range s.events {
			s.cfg.OnEvent(e)
		}
	}()
	var wg sync.WaitGroup
	for _, k := range s.keepers {
		wg.Go(func() { k.run(ctx) })
	}
	wg.Wait()
	close(s.events)
	<-told
}

// Sweep removes the sockets that others than the living processes of these children have left.
func Sweep(sockets string, children []Child) {
	used := make(map[string]bool)
	for _, c := range children {
		if h := lifecycle.ReadHolder(c.Dir, lifecycle.LockFile); c.Dir != "" && h != nil {
			used[h.Sockets] = true
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(sockets, "plugin-dir*"))
	for _, dir := range dirs {
		if !used[dir] {
			_ = os.RemoveAll(dir)
		}
	}
}

// keeper is the goroutine that owns a child.
type keeper struct {
	s     *Supervisor
	index int
	child Child
	m     machine
	inbox chan message
	p     process // nil: none
	wg    sync.WaitGroup
	ended chan struct{}
}

// message is an input, and for a request where its answer goes.
type message struct {
	in    any
	reply chan error
}

func (k *keeper) ask(v verb) error {
	reply := make(chan error, 1)
	select {
	case k.inbox <- message{request{v}, reply}:
	case <-k.ended:
		return fmt.Errorf("%s can't be asked to %s: the launcher is ending", k.child.Name, v)
	}
	return <-reply
}

// post hands the owner what was seen; false: it has ended.
func (k *keeper) post(in any) bool {
	select {
	case k.inbox <- message{in: in}:
		return true
	case <-k.ended:
		return false
	}
}

// owned is launched, with the process.
type owned struct {
	p process
	launched
}

func (k *keeper) run(ctx context.Context) {
	defer k.wg.Wait()
	defer close(k.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	k.m.now = time.Now()
	k.m.begin()
	k.carryOut(k.m.effects, k.m.events)
	done := ctx.Done()
	for k.m.wanted == "" || k.m.status.State != Stopped {
		if next := k.m.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Reset(time.Hour)
		}
		q := message{in: tick{}}
		select {
		case q = <-k.inbox:
		case <-timer.C:
		case <-done:
			if done = nil; k.s.leaving.Load() {
				if k.p != nil {
					k.p.leave()
				}
				return
			}
			q.in = request{verbStop}
		}
		if o, ok := q.in.(owned); ok {
			k.p, q.in = o.p, o.launched
		}
		effects, events, err := k.m.step(q.in, time.Now())
		k.carryOut(effects, events)
		if q.reply != nil {
			q.reply <- err
		}
	}
}

// carryOut does what the machine wants, then tells what happened.
func (k *keeper) carryOut(effects []effect, events []Event) {
	for _, e := range effects {
		k.do(e)
	}
	k.s.mu.Lock()
	st := k.m.status
	st.Causes = make(map[Cause]int, len(k.m.status.Causes))
	for cause, n := range k.m.status.Causes {
		st.Causes[cause] = n
	}
	st.Paused = k.m.pausedWanted
	k.s.status[k.index] = st
	k.s.mu.Unlock()
	for _, e := range events {
		select {
		case k.s.events <- e:
		default:
		}
	}
}

func (k *keeper) do(e effect) {
	switch e.do {
	case doStart:
		k.wg.Go(func() { k.start(e.epoch) })
	case doCheck:
		p, limit := k.p, k.m.period()
		k.wg.Go(func() { k.post(checked{e.epoch, p.check(limit)}) })
	case doDial:
		k.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), remoteEvery)
			defer cancel()
			k.post(dialled{e.epoch, k.s.host.dial(ctx, k.child.Addr)})
		})
	case doTerm:
		k.p.signal(syscall.SIGTERM)
		k.p.signal(syscall.SIGCONT)
	case doKill:
		k.p.signal(syscall.SIGKILL)
	case doPause:
		k.p.signal(syscall.SIGSTOP)
	case doResume:
		k.p.signal(syscall.SIGCONT)
	case doSave:
		k.s.save(k.child.Name, k.m.pausedWanted)
	}
}

// start posts what became of a start, and later the end of the process.
func (k *keeper) start(run uint64) {
	p, err := k.s.host.start(k.child)
	if other := (*lifecycle.HeldError)(nil); errors.As(err, &other) {
		k.post(held{run, other.PID})
		return
	}
	if err != nil {
		k.post(exited{run, exit{words: fmt.Sprintf("could not be started: %v", err), cause: Exited}})
		return
	}
	note, adopted := p.adopted()
	if !k.post(owned{p, launched{run, p.pid(), adopted, note}}) {
		p.leave()
	}
	k.post(exited{run, p.wait()})
}
