// Package controller opens or resumes a bank, takes Chandy-Lamport snapshots of it and audits them.
//
// It keeps one connection to each branch, dialled again whenever it ends. What is outstanding is then
// repeated: all requests are idempotent. It does not start or watch processes, shows nothing (people
// see renderings of its Events) and decides nothing by the wall clock.
//
// One loop owns all state; connections hand it what they read as functions to call. Opening a bank
// is atomic: the plan is on disk before it is proposed, first to the first branch of the roster,
// whose answer tells whether it holds, then to the others. So a bank that is half open when the
// controller dies is finished by the next one on the same directory.
//
// Invariant: a snapshot is called complete only when every branch has answered it, and consistent
// only when Audit finds nothing.
package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

const (
	connecting   = "connecting" // the reason until a first dial has failed
	tickEvery    = 20 * time.Millisecond
	waitingEvery = 100 * time.Millisecond
	pollEvery    = 500 * time.Millisecond
	pollTimeout  = 10 * time.Second // a branch may wait so long in a sync; and 100 ms each for the cores
	drainTimeout = 500 * time.Millisecond
	maxOpening   = 4 // branches that are being opened at a time
)

// phase is how far the bank is.
type phase int

const (
	opening phase = iota // until all branches hold the plan
	linking              // until all their links were up
	running
)

// Controller is one run over one bank. Make it with New.
type Controller struct {
	cfg       Config
	inbox     chan func()
	ended     chan struct{} // closed when the loop takes nothing more
	published atomic.Pointer[[]BranchStatus]

	// Only the loop touches what follows.
	peers    []*peer
	names    []string
	phase    phase
	bank     *Plan  // nil: none is known yet
	id       []byte // of the bank, since all branches are open
	aside    string
	plain    bool // opened by a client of the assignment: no plan, no key
	wasOpen  bool // the bank was opened before this run
	history  *os.File
	rng      *rand.Rand
	highest  uint64 // snapshot id in use anywhere
	pending  map[uint64]*pending
	tally    tally
	err      error // ends the run
	start    time.Time
	ready    time.Time
	ticked   time.Time // the last time
	told     time.Time // of the last Waiting
	next     time.Time // when a scheduled snapshot is due
	draining bool
	drainEnd time.Time
}

// BranchStatus is what the controller knows of a branch.
type BranchStatus struct {
	Name, Addr string
	Connected  bool
	Reason     string         // why it is not connected
	Status     *bankpb.Status // the last one it sent, nil before; don't change it
	At         time.Time      // when it came
}

// New checks the configuration and the data directory. It dials nobody yet.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	seed := cfg.Seed
	if seed == 0 {
		seed = rand.Uint64() //nolint:gosec // whom to ask, not a secret
	}
	c := &Controller{
		cfg: cfg, inbox: make(chan func(), 64), ended: make(chan struct{}), names: cfg.Roster.Names(),
		rng: rand.New(rand.NewPCG(seed, seed)), pending: map[uint64]*pending{}, //nolint:gosec // as above
	}
	for i, b := range cfg.Roster.Branches {
		c.peers = append(c.peers, &peer{index: i, branch: b, reason: connecting})
	}
	c.publish()
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Controller) load() error {
	if err := os.MkdirAll(c.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if info, err := os.Lstat(c.cfg.DataDir); err != nil || !info.IsDir() || info.Mode()&0o002 != 0 {
		return &UsageError{fmt.Errorf("%s: a data directory is no link, and not everybody's to write (chmod o-w)", c.cfg.DataDir)}
	}
	var err error
	if c.bank, err = ReadPlan(c.cfg.DataDir); err != nil {
		return err
	}
	if c.bank != nil {
		c.wasOpen = c.bank.OpenedAt != ""
		if err := c.checkBank(c.bank.Total, c.bank.Names()); err != nil {
			return &UsageError{fmt.Errorf("the data directory %s %w", c.cfg.DataDir, err)}
		}
	}
	if c.highest, err = highestSnapshot(c.cfg.DataDir); err == nil && c.bank != nil {
		c.highest = max(c.highest, c.bank.LastSnapshotID)
	}
	return err
}

// checkBank compares a bank that is held somewhere with the one that is asked for. The error goes
// on after the name of the holder.
func (c *Controller) checkBank(total uint64, names []string) error {
	switch {
	case !slices.Equal(names, c.names):
		return fmt.Errorf("holds a bank of the branches %s, not %s: %s", listed(names), listed(c.names), c.cfg.Remedy)
	case total != c.cfg.Total:
		return fmt.Errorf("holds a bank of %d, not %d: %s", total, c.cfg.Total, c.cfg.Remedy)
	}
	return nil
}

// Run serves until ctx ends or the configured end is reached, which is nil. Errors are *UsageError,
// *WaitError, *BooksError or a failure of this machine. Call it once.
func (c *Controller) Run(ctx context.Context) (err error) {
	var peers sync.WaitGroup
	defer peers.Wait()
	defer close(c.ended) // who is handing something over waits no longer
	if c.history, err = openHistory(c.cfg.DataDir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.history.Close()) }()

	peerCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	c.start = time.Now()
	c.ticked = c.start
	for _, p := range c.peers {
		p.since = c.start
		peers.Go(func() { c.keepConnected(peerCtx, p) })
	}
	err = c.loop(ctx)
	for _, id := range slices.Sorted(maps.Keys(c.pending)) {
		c.end(c.pending[id], "the controller ended")
	}
	if c.phase == running {
		s := c.tally.stopped()
		s.Paid, s.Received = c.transfers()
		c.emit(s)
	}
	return err
}

func (c *Controller) loop(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	snapshot := time.NewTimer(time.Hour)
	defer snapshot.Stop()
	done := ctx.Done()
	for c.err == nil {
		select {
		case f := <-c.inbox:
			f()
		case <-tick.C:
			c.onTick(time.Now())
		case <-snapshot.C:
		case <-done:
			done = nil
			c.drain()
		}
		if c.draining && c.drained() {
			return c.err
		}
		if wait := c.schedule(time.Now()); wait > 0 {
			snapshot.Reset(wait)
		}
	}
	return c.err
}

// transfers of all branches since this run began.
func (c *Controller) transfers() (paid, received uint64) {
	for _, p := range c.peers {
		paid0, received0 := counts(p.began)
		paid1, received1 := counts(p.status)
		paid += paid1 - min(paid0, paid1) // books in memory begin anew with their process
		received += received1 - min(received0, received1)
	}
	return paid, received
}

func counts(s *bankpb.Status) (sent, received uint64) {
	for _, l := range s.GetLinks() {
		sent, received = sent+l.GetSentCount(), received+l.GetReceivedCount()
	}
	return sent, received
}

// drain starts no more snapshots and gives those in progress a moment, and with StopTransfers the
// branches to hear of it.
func (c *Controller) drain() {
	if c.draining {
		return
	}
	c.draining, c.drainEnd = true, time.Now().Add(drainTimeout)
	if stop := true; c.cfg.StopTransfers && c.phase == running {
		for _, p := range c.peers {
			if p.proved {
				p.ask(getStatus(Settings{Stopped: &stop}.proto()))
			}
		}
	}
}

// drained tells that nothing is waited for any more. A branch answers in order: one that owes nothing has
// answered what it was asked when the drain began.
func (c *Controller) drained() bool {
	asked := func(p *peer) bool { return c.cfg.StopTransfers && p.proved && p.unanswered > 0 }
	return len(c.pending) == 0 && !slices.ContainsFunc(c.peers, asked) || time.Now().After(c.drainEnd)
}

func (c *Controller) onTick(now time.Time) {
	if c.phase != running {
		if now.Sub(c.told) >= waitingEvery && now.Sub(c.start) >= waitingEvery/2 {
			c.told = now
			c.emit(c.waiting(now))
		}
		if now.Sub(c.start) > c.cfg.Wait {
			c.fail(&WaitError{c.cfg.Wait, c.waiting(now)})
		}
	} else if c.cfg.Duration > 0 && now.Sub(c.ready) >= c.cfg.Duration {
		c.drain()
	}
	// While this process was stopped or starved it heard nothing: how late it is counts for nobody.
	late := max(0, now.Sub(c.ticked)-tickEvery)
	c.ticked = now
	limit := pollTimeout + time.Duration(len(c.peers))*100*time.Millisecond
	for _, p := range c.peers {
		if p.heard = p.heard.Add(late); p.heard.After(now) { // it answered, or was asked, since this process goes on
			p.heard = now
		}
		switch {
		case p.unanswered > 0 && now.Sub(p.heard) > limit:
			if !p.proved {
				c.cfg.Logger.Warn("branch given up, and tried again", "branch", p.branch.Name, "address", p.branch.Addr(),
					"reason", p.owes(), "after", now.Sub(p.heard).Round(time.Second))
			}
			c.drop(p, p.owes())
		case !p.proved, p.unanswered > 0, c.phase != running && p.status.GetReady(): // it was asked often enough
		case !now.Before(p.nextAsk):
			c.poll(p, now)
		}
	}
}

func (c *Controller) poll(p *peer, now time.Time) {
	// A status has one entry per link, so that all of them grow with the square of the branches.
	n := time.Duration(len(c.peers)) * time.Millisecond
	p.nextAsk = now.Add(max(pollEvery, 8*n))
	if c.phase != running {
		p.nextAsk = now.Add(max(tickEvery, 4*n))
	}
	p.ask(getStatus(nil))
}

// waiting is who is waited for, and why.
func (c *Controller) waiting(now time.Time) Waiting {
	w := Waiting{For: "branches", Total: len(c.peers)}
	if c.phase == linking {
		w.For = "links"
	}
	attaching := slices.ContainsFunc(c.peers, func(p *peer) bool { return p.fact == nil }) // none is opened before all are there
	for _, p := range c.peers {
		m := Missing{Name: p.branch.Name, Addr: p.branch.Addr(), Reason: p.reason, For: now.Sub(p.since)}
		switch {
		case c.phase == linking && p.proved && !p.status.GetReady():
			m.Reason = "links to " + listed(linksDown(p.status))
		case p.proved, attaching && p.session != nil && p.reason == "" && !p.asked:
			w.Ready++
			continue
		case p.unanswered > 0:
			m.Reason, m.For = p.owes()+" yet", now.Sub(p.heard)
		case p.session != nil && p.reason == "":
			m.Reason = "waits for its turn to be opened"
		}
		w.Missing = append(w.Missing, m)
	}
	return w
}

func linksDown(s *bankpb.Status) []string {
	var down []string
	for _, l := range s.GetLinks() {
		switch {
		case l.GetRefused() != "":
			down = append(down, l.GetPeer()+" (refused: "+l.GetRefused()+")")
		case !l.GetUp():
			down = append(down, l.GetPeer())
		}
	}
	return down
}

// post hands the loop something to do.
func (c *Controller) post(f func()) {
	select {
	case c.inbox <- f:
	case <-c.ended:
	}
}

func (c *Controller) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *Controller) emit(e Event) { c.cfg.OnEvent(e) }

// Status is what is known of each branch, in roster order: balances are of different moments, so
// their sum is no snapshot. Safe for concurrent use.
func (c *Controller) Status() []BranchStatus { return *c.published.Load() }

func (c *Controller) publish() {
	all := make([]BranchStatus, len(c.peers))
	for i, p := range c.peers {
		all[i] = BranchStatus{
			Name: p.branch.Name, Addr: p.branch.Addr(), Connected: p.proved,
			Reason: p.reason, Status: p.status, At: p.statusAt,
		}
	}
	c.published.Store(&all)
}

// SetSettings changes what is not nil at all branches, also at those that come back later. Safe for
// concurrent use; it returns before the branches have them.
func (c *Controller) SetSettings(s Settings) error {
	if err := s.validate(); err != nil {
		return &UsageError{err}
	}
	c.post(func() {
		c.cfg.Settings.merge(s)
		for _, p := range c.peers {
			if p.proved {
				p.ask(getStatus(s.proto()))
			}
		}
	})
	return nil
}

// Cut takes the link between two branches down for so long, at most link.MaxCut: fault injection. Safe
// for concurrent use; it returns before the link is down. Error: names that can't be, too long a time,
// neither branch connected, ErrStopped.
func (c *Controller) Cut(src, dst string, d time.Duration) error {
	i, j := slices.Index(c.names, src), slices.Index(c.names, dst)
	switch {
	case i < 0 || j < 0 || i == j:
		return fmt.Errorf("no link between %q and %q", src, dst)
	case d <= 0 || d > link.MaxCut:
		return fmt.Errorf("a link is cut for at most %s, not %s", link.MaxCut, d)
	}
	answer := make(chan error, 1)
	c.post(func() {
		for _, end := range [][2]int{{i, j}, {j, i}} {
			if p := c.peers[end[0]]; p.proved {
				us := uint64(d.Microseconds()) //nolint:gosec // checked above
				p.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Cut{
					Cut: &bankpb.Cut{Peer: c.names[end[1]], DurationUs: us},
				}})
				c.emit(LinkCut{c.names[end[0]], c.names[end[1]], d})
				answer <- nil
				return
			}
		}
		answer <- fmt.Errorf("neither %s nor %s is connected", src, dst)
	})
	select {
	case err := <-answer:
		return err
	case <-c.ended:
		return ErrStopped
	}
}

func getStatus(s *bankpb.Settings) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{Settings: s}}}
}
