package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"cutbank/proto/bankpb"
)

const (
	maxPending    = 8           // snapshots of this controller in progress
	keptDurations = 4096        // for the median
	firstAfter    = time.Second // all are ready, at the latest
)

// ErrIncomplete is a snapshot on demand that was not complete in time; its record says who is
// waited for.
var ErrIncomplete = errors.New("the snapshot is not complete yet")

// ErrStopped is a request to a controller that does not run.
var ErrStopped = errors.New("the controller is not running")

// ErrBusy is a snapshot on demand while too many are in progress or no branch answers.
var ErrBusy = errors.New("no snapshot can be started now")

// pending is a snapshot in progress.
type pending struct {
	id        uint64
	initiator *peer
	repeated  bool // the request was sent again: that it exists is then no surprise
	parts     []*part
	missing   int
	started   time.Time
	done      chan<- Record // of TakeSnapshot; nil otherwise
}

// schedule starts a snapshot when one is due and says how long to sleep until the next; 0: until something happens.
func (c *Controller) schedule(now time.Time) time.Duration {
	if c.phase != running || c.draining || c.cfg.SnapshotInterval < 0 || c.err != nil {
		return 0
	}
	if n := c.cfg.Snapshots; n > 0 {
		if c.tally.complete() >= n {
			c.drain()
			return tickEvery
		}
		if c.tally.complete()+len(c.pending) >= n {
			return 0
		}
	}
	if wait := c.next.Sub(now); wait > 0 {
		return wait
	}
	if !c.startSnapshot(nil) {
		return 0 // tried again when one is complete or a branch is back
	}
	if c.next = c.next.Add(c.cfg.SnapshotInterval); c.next.Before(now) {
		c.next = now.Add(c.cfg.SnapshotInterval) // those that could not be started are not made up for
	}
	return max(time.Microsecond, c.next.Sub(now))
}

// startSnapshot asks a random branch; false: none can be asked, or too many are in progress.
func (c *Controller) startSnapshot(done chan<- Record) bool {
	able := slices.DeleteFunc(slices.Clone(c.peers), func(p *peer) bool { return !p.proved })
	if len(able) == 0 || len(c.pending) >= maxPending {
		return false
	}
	c.highest++
	s := &pending{
		id: c.highest, initiator: able[c.rng.IntN(len(able))], parts: make([]*part, len(c.peers)),
		missing: len(c.peers), started: time.Now(), done: done,
	}
	c.pending[s.id] = s
	s.initiator.session.send(initSnapshot(s.id))
	for _, p := range able {
		p.session.send(retrieveSnapshot(s.id))
	}
	c.emit(SnapshotStarted{s.id, s.initiator.branch.Name})
	return true
}

func initSnapshot(id uint64) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{
		InitSnapshot: &bankpb.InitSnapshot{SnapshotId: id},
	}}
}

func retrieveSnapshot(id uint64) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
		RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: id},
	}}
}

// repeat asks a branch that is back for what it has not answered.
func (c *Controller) repeat(p *peer) {
	for _, id := range slices.Sorted(maps.Keys(c.pending)) {
		s := c.pending[id]
		if s.initiator == p && s.missing == len(c.peers) { // a part would show that it was started
			s.repeated = true
			p.session.send(initSnapshot(id))
		}
		if s.parts[p.index] == nil {
			p.session.send(retrieveSnapshot(id))
		}
	}
}

func (c *Controller) onPart(p *peer, answer *part) {
	s := c.pending[answer.GetSnapshotId()]
	if s == nil || s.parts[p.index] != nil {
		return // given up, or asked twice
	}
	s.parts[p.index] = answer
	if s.missing--; s.missing == 0 {
		c.end(s, "")
	}
}

// end ends a snapshot that is complete, or that is given up for a reason.
func (c *Controller) end(s *pending, reason string) {
	delete(c.pending, s.id)
	r := c.record(s)
	c.tally.add(r, time.Since(s.started))
	if err := appendRecord(c.history, r); err != nil {
		c.fail(err)
	}
	if r.Status == Incomplete {
		c.emit(SnapshotIncomplete{r, reason})
	} else {
		c.emit(SnapshotComplete{r})
	}
	s.tell(r)
	if r.Status == Inconsistent {
		c.fail(&BooksError{r.SnapshotID, r.Differences})
	}
}

// tell answers who waits for the snapshot, once.
func (s *pending) tell(r Record) {
	if s.done != nil {
		s.done <- r
		s.done = nil
	}
}

// record is the snapshot as far as it has come.
func (c *Controller) record(s *pending) Record {
	took := time.Since(s.started)
	r := newRecord(s.id, c.cfg.Total, c.names, s.parts, Audit)
	r.BankID = idText(c.id)
	r.Initiator = r.initiator(s.initiator.branch.Name)
	r.StartedAt = stamp(s.started)
	r.DurationMS = float64(took.Microseconds()) / 1000
	if c.bank != nil && !c.plain {
		r.BrokenRule = c.bank.BrokenRule
	}
	return r
}

func (c *Controller) onSnapshotError(p *peer, id uint64, e *bankpb.Error) {
	s := c.pending[id]
	if s == nil {
		return
	}
	switch e.GetCode() {
	case bankpb.Error_SNAPSHOT_EXISTS:
		if s.repeated || p != s.initiator {
			return // it was started before the connection ended
		}
		// Another controller has this id. Its snapshot is left to it; the next id is above all.
		delete(c.pending, id)
		c.emit(SnapshotRefused{id, p.branch.Name, "another controller has it"})
		if s.done != nil && !c.startSnapshot(s.done) {
			close(s.done)
		} else if s.done == nil {
			c.next = time.Now()
		}
	case bankpb.Error_SNAPSHOT_LIMIT:
		if p == s.initiator && s.missing == len(c.peers) {
			delete(c.pending, id)
			c.emit(SnapshotRefused{id, p.branch.Name, e.GetMessage()})
			if s.done != nil {
				close(s.done)
			}
			return
		}
		c.end(s, p.branch.Name+": "+e.GetMessage())
	default:
		c.end(s, p.branch.Name+": "+e.GetMessage())
	}
}

// TakeSnapshot takes one now and returns when it is complete; its record may be inconsistent. When
// ctx ends first, the error is ErrIncomplete with the record as it is; the snapshot stays in
// progress. Other errors: ErrBusy, ErrStopped. Safe for concurrent use.
func (c *Controller) TakeSnapshot(ctx context.Context) (Record, error) {
	done := make(chan Record, 1)
	c.post(func() {
		if c.phase != running || c.draining || !c.startSnapshot(done) {
			close(done)
		}
	})
	defer context.AfterFunc(ctx, func() {
		c.post(func() {
			for _, s := range c.pending {
				if s.done == done {
					s.tell(c.record(s))
				}
			}
		})
	})()
	select {
	case r, ok := <-done:
		switch {
		case !ok:
			return r, ErrBusy
		case r.Status == Incomplete:
			return r, ErrIncomplete
		}
		return r, nil
	case <-c.ended:
		return Record{}, ErrStopped
	}
}

// tally is the score of a run.
type tally struct {
	consistent, inconsistent, incomplete int
	shortest, longest                    time.Duration
	recent                               []time.Duration // a ring of keptDurations
	last                                 *Record
}

func (t *tally) complete() int { return t.consistent + t.inconsistent }

func (t *tally) add(r Record, took time.Duration) {
	switch r.Status {
	case Incomplete:
		t.incomplete++
		return
	case Consistent:
		t.consistent++
	default:
		t.inconsistent++
	}
	if n := t.complete(); n == 1 {
		t.shortest, t.longest = took, took
	}
	t.shortest, t.longest = min(t.shortest, took), max(t.longest, took)
	if len(t.recent) < keptDurations {
		t.recent = append(t.recent, took)
	} else {
		t.recent[t.complete()%keptDurations] = took
	}
	t.last = &r
}

func (t *tally) stopped() Stopped {
	s := Stopped{
		Consistent: t.consistent, Inconsistent: t.inconsistent, Incomplete: t.incomplete,
		Min: t.shortest, Max: t.longest, Last: t.last,
	}
	if sorted := slices.Sorted(slices.Values(t.recent)); len(sorted) > 0 {
		s.Median = sorted[len(sorted)/2]
	}
	return s
}
