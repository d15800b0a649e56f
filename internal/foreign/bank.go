// Package foreign runs a bank of somebody else's branches: it starts a program per branch, opens the
// bank and takes snapshots with the assignment's six messages and no others, through the proxies of
// package observe, and lets package judge find out which rules the branches keep.
//
// It knows of a branch what a stranger can: that its process runs, that its port answers, and what it
// sends. It keeps nothing from one run to the next.
//
// Invariant: an effect of this package (a request, a signal) is told to the judge before it happens;
// when Run returns, none of its processes is left, and all that they sent has been judged.
package foreign

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cutbank/internal/judge"
	"cutbank/internal/link"
	"cutbank/internal/observe"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// Defaults and bounds.
const (
	DefaultSnapshotWait = 2 * time.Second
	answerWait          = 10 * time.Second
	openWait            = 10 * time.Second // for the first connection between branches
	evidenceWait        = time.Second      // for what branches send that were opened in another framing
	firstSnapshot       = time.Second      // after all are connected
	initPause           = 200 * time.Millisecond
	restartDelay        = 500 * time.Millisecond
	drainWait           = 2 * time.Second
	pollEvery           = 20 * time.Millisecond
	stalled             = 3 * time.Second // this process stood still: branches may have given up connections meanwhile
	maxPending          = 8               // snapshots in progress
)

// Config of a run.
type Config struct {
	Roster           roster.Roster
	Total            uint64
	Commands         [][]string // per branch
	Dir              string     // for <name>.log; it is there
	Delay            link.Delay
	Restart          bool          // start a branch again that ended by itself or was killed
	Wait             time.Duration // for all ports
	SnapshotWait     time.Duration // from InitSnapshot to RetrieveSnapshot
	SnapshotInterval time.Duration // from one start to the next; shorter than SnapshotWait: they overlap
	Snapshots        int           // 0: no end
	Duration         time.Duration // 0: no end
	Seed             uint64        // 0: another one each time
	Chaos            time.Duration // kill or pause a branch that often on average; 0: never
	Say              func(format string, args ...any)
	OnSnapshot       func(Snapshot) // called by several goroutines

	openWait time.Duration // of a test; 0: openWait
}

// Snapshot is what the branches answered.
type Snapshot struct {
	ID        uint64
	Initiator string
	Started   time.Time
	Took      time.Duration
	Parts     []*bankpb.ReturnSnapshot_LocalSnapshot // nil: no answer
}

// WaitError is a bank that could not be opened.
type WaitError struct{ text string }

func (e *WaitError) Error() string { return e.text }

// bank is one run.
type bank struct {
	cfg     Config
	names   []string
	started time.Time

	mu        sync.Mutex // what follows, and the order of events
	judge     *judge.Judge
	beat      time.Time // when this process was last seen to run
	stopping  bool
	processes []*process
	pending   map[uint64]*pending
	random    *rand.Rand

	clients []*observe.Client
	mesh    *observe.Mesh
	opened  chan struct{} // closed when mesh is there
	framing observe.Framing
	wg      sync.WaitGroup // of watchers
}

type pending struct {
	Snapshot
	asked   time.Time // when RetrieveSnapshot was sent
	missing int
	over    bool
}

// Run runs the bank until ctx or its configured end, and reports. Errors are *WaitError, or of this
// machine; the report holds also then.
func Run(ctx context.Context, cfg Config) (judge.Report, error) {
	cfg.openWait = cmp.Or(cfg.openWait, openWait)
	b := &bank{cfg: cfg, names: cfg.Roster.Names()}
	for _, name := range b.names {
		_ = os.Remove(b.log(name)) // of an earlier run
	}
	r, judged, err := b.run(ctx)
	if judged || err != nil || ctx.Err() != nil {
		return r, err
	}
	cfg.Say("no branch has connected to another: trying InitBranch in other framings, to see which they were written for")
	for framing := observe.Varint + 1; framing < observe.NumFramings; framing++ {
		other := &bank{cfg: cfg, names: b.names, framing: framing}
		if again, judged, err := other.run(ctx); judged || ctx.Err() != nil {
			return again, err
		}
	}
	return r, &WaitError{fmt.Sprintf("no branch connected to another within %s of InitBranch; their output is in %s",
		cfg.openWait, cfg.Dir)}
}

func (b *bank) log(name string) string { return filepath.Join(b.cfg.Dir, name+".log") }

// run is one attempt. Judged tells that the branches took InitBranch in this framing, and that this shows something.
func (b *bank) run(ctx context.Context) (r judge.Report, judged bool, err error) {
	seed := b.cfg.Seed
	if seed == 0 {
		seed = rand.Uint64() //nolint:gosec // whom to ask, not a secret
	}
	b.judge, b.pending = judge.New(b.names, b.cfg.Total), map[uint64]*pending{}
	b.random = rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // whom to ask, not a secret
	b.opened = make(chan struct{})
	b.processes, b.started = make([]*process, len(b.names)), time.Now()
	b.beat = b.started
	for i, branch := range b.cfg.Roster.Branches {
		b.clients = append(b.clients, &observe.Client{
			Branch: i, Address: branch.Addr(), Framing: b.framing, Names: b.names, Observe: b.observe,
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.wg.Go(func() {
		for sleep(ctx, pollEvery) {
			b.mu.Lock()
			b.tick()
			b.mu.Unlock()
		}
	})
	if err = b.open(ctx); err == nil {
		judged = b.connected(ctx)
	}
	switch {
	case !judged:
	case b.framing == observe.Varint:
		b.snapshots(ctx, cancel)
	default:
		b.until(ctx, b.cfg.openWait, b.mesh.Heard)
		sleep(ctx, evidenceWait)
	}
	cancel()
	r = b.end()
	if b.framing != observe.Varint {
		// A reader of varints that forgives empty messages may take a length of four bytes: what it sends is well
		// framed, or it sends nothing, and it was only too slow before.
		judged = b.judge.Misframed()
	}
	return r, judged, err
}

// observe gives an event to the judge. Of branches that were opened in another framing than theirs may be, only
// the framing among themselves counts: a right one may answer the controller's rubbish, or end, as it likes.
func (b *bank) observe(e judge.Event) {
	if b.framing != observe.Varint {
		switch {
		case e.To == judge.Controller:
			return
		case e.Kind == judge.Sent:
			e = judge.Event{Kind: judge.Frame, From: e.From, To: e.To}
		case e.Kind != judge.Frame && e.Kind != judge.BadBytes:
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	e.AtUS = time.Since(b.started).Microseconds()
	b.judge.Step(e)
	if e.Kind == judge.Answer {
		b.answered(e)
	}
}

// tick notices when this process stood still, and the proxies with it. It holds b.mu.
func (b *bank) tick() {
	now := time.Now()
	if now.Sub(b.beat) > stalled {
		b.judge.Step(judge.Event{Kind: judge.Paused, From: judge.Controller, To: judge.Controller})
	}
	b.beat = now
}

// open starts the processes, waits for their ports, and sends InitBranch to one after another.
func (b *bank) open(ctx context.Context) error {
	for i := range b.names {
		if err := b.start(i); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(b.cfg.Wait)
	for i, c := range b.clients {
		for c.Connect(ctx) != nil {
			p := b.process(i)
			if !p.running() {
				reason, _ := p.ended()
				return &WaitError{fmt.Sprintf("%s ended before it listened on %s: %s; its output is in %s", b.names[i], c.Address, reason, p.log)}
			}
			if time.Now().After(deadline) {
				return &WaitError{fmt.Sprintf("%s does not listen on %s after %s (--wait sets how long); its output is in %s",
					b.names[i], c.Address, b.cfg.Wait, p.log)}
			}
			if !sleep(ctx, pollEvery) {
				return nil
			}
		}
	}
	var addresses []string
	for _, branch := range b.cfg.Roster.Branches {
		addresses = append(addresses, branch.Addr())
	}
	var err error
	b.mesh, err = observe.New(observe.Config{Names: b.names, Addresses: addresses, Delay: b.cfg.Delay, Observe: b.observe})
	if err != nil {
		return err
	}
	close(b.opened)
	for i := range b.names {
		if err := b.init(ctx, i); err != nil {
			b.cfg.Say("%s: InitBranch could not be sent: %v", b.names[i], err)
		}
		// Whoever pays before the others are opened shows it.
		if !sleep(ctx, min(initPause, 2*time.Second/time.Duration(len(b.names)))) {
			return nil
		}
	}
	return nil
}

// init sends InitBranch with the addresses of the branch's proxies.
func (b *bank) init(ctx context.Context, i int) error {
	m := &bankpb.InitBranch{Balance: roster.Shares(b.cfg.Total, len(b.names))[i]}
	for k, branch := range b.cfg.Roster.Branches {
		host, port := branch.Host, int(branch.Port)
		if k != i {
			host, port = b.mesh.Address(i, k)
		}
		m.AllBranches = append(m.AllBranches, &bankpb.InitBranch_Branch{Name: branch.Name, Ip: host, Port: uint32(port)}) //nolint:gosec // a port
	}
	return b.clients[i].Send(ctx, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: m}},
		judge.Event{Kind: judge.Init, From: judge.Controller, To: i, Balance: m.GetBalance()})
}

// until waits for a condition, for at most so long: in steps, so that the time counts in which this process runs.
func (b *bank) until(ctx context.Context, wait time.Duration, there func() bool) {
	for wait > 0 && !there() && b.alive() > 0 && sleep(ctx, pollEvery) {
		wait -= pollEvery
	}
}

// connected waits for a first connection, and then as long as for their ports until every pair has one: branches
// that are slow, or dial when they pay.
func (b *bank) connected(ctx context.Context) bool {
	all := len(b.names) * (len(b.names) - 1) / 2
	b.until(ctx, b.cfg.openWait, func() bool { return b.mesh.Pairs() > 0 })
	if b.mesh.Pairs() > 0 && b.framing == observe.Varint {
		b.until(ctx, b.cfg.Wait, func() bool { return b.mesh.Pairs() >= all })
	}
	if n := b.mesh.Pairs(); n > 0 && b.framing == observe.Varint {
		b.cfg.Say("opened the bank: %d in %d branches; %d of %d pairs are connected", b.cfg.Total, len(b.names), n, all)
	}
	return b.mesh.Pairs() > 0
}

// end stops the processes, waits for what they sent, and judges.
func (b *bank) end() judge.Report {
	b.observe(judge.Event{Kind: judge.Stopping})
	b.mu.Lock()
	b.stopping = true
	all := append([]*process(nil), b.processes...)
	b.mu.Unlock()
	stopAll(b.names, all, stopTimeout, b.cfg.Say)
	b.wg.Wait()
	if b.mesh != nil {
		b.mesh.Close(drainWait)
	}
	for _, c := range b.clients {
		c.Close()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.judge.Report()
}

func (b *bank) process(i int) *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.processes[i]
}

func (b *bank) alive() (n int) {
	for i := range b.names {
		if p := b.process(i); p != nil && p.running() {
			n++
		}
	}
	return n
}

// start starts branch i and watches it, unless the bank is being stopped.
func (b *bank) start(i int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		return nil
	}
	p, err := start(b.cfg.Commands[i], b.log(b.names[i]))
	if err != nil {
		return fmt.Errorf("%s: %w", b.names[i], err)
	}
	b.processes[i] = p
	b.wg.Go(func() { b.watch(i, p) })
	return nil
}

// watch tells of the end of a process, and starts it again when that is wanted.
func (b *bank) watch(i int, p *process) {
	<-p.exited
	b.mu.Lock()
	stopping := b.stopping
	b.mu.Unlock()
	if stopping {
		return
	}
	select {
	case <-b.opened:
	default:
		return // open says so
	}
	reason, asked := p.ended()
	if !asked {
		b.observe(judge.Event{Kind: judge.Exited, From: i, Text: reason})
	}
	b.cfg.Say("%s ended (pid %d): %s", b.names[i], p.cmd.Process.Pid, reason)
	if !b.cfg.Restart {
		return
	}
	time.Sleep(restartDelay)
	if err := b.start(i); err != nil {
		b.cfg.Say("%v", err)
		return
	}
	// It is opened as at first: a branch that keeps its books knows this InitBranch already.
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Wait)
	defer cancel()
	for b.init(ctx, i) != nil {
		if q := b.process(i); q == p || !q.running() || !sleep(ctx, pollEvery) {
			return
		}
	}
	b.cfg.Say("%s is started again (pid %d)", b.names[i], b.process(i).cmd.Process.Pid)
}

// sleep returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
