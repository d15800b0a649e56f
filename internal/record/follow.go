package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"cutbank/internal/journal"
	"cutbank/internal/ledger"
)

// chunk is how many bytes of a journal are read at a time: some ten thousand events.
const chunk = 64 << 10

// Follower reads the journals of a data directory and merges them. Poll is called by one goroutine at a
// time; Note by any.
type Follower struct {
	names   []string
	sources []*source
	clocks  bool

	mu    sync.Mutex
	notes []note
}

// note is an event that no journal holds.
type note struct {
	branch int
	event  Event
}

// source is one branch's journal.
type source struct {
	index  int
	dir    string
	tail   *journal.Tail // nil: its directory was not there yet
	ledger *ledger.Ledger
	queue  []item // read, not passed on yet
	notes  []Event
	more   bool // there is more to read
	absent bool // its journal is on another machine

	after uint64 // commits up to this one were passed on
	part  int    // and so many events of the next one (after a resume)

	balance             uint64   // after the last event that was passed on
	passedOut, passedIn []uint64 // by peer: number of the last item that was

	sent   []uint64      // by receiver: sends up to this number were passed on, or are lost
	clock  []uint64      // vector clock; nil without clocks
	flying [][]sentClock // by receiver: clocks of sends whose receive was not passed on
}

type item struct {
	ledger.Event
	commit  uint64
	started uint64 // incarnation
	gap     bool
}

type sentClock struct {
	n     uint64
	clock []uint64
}

// Follow makes a follower of the branches with these names, in file order, whose directories are in dir.
// A branch without a directory there is waited for.
func Follow(dir string, names []string, clocks bool) *Follower {
	f := &Follower{names: names, clocks: clocks}
	for i, name := range names {
		s := &source{index: i, dir: filepath.Join(dir, name), sent: make([]uint64, len(names))}
		s.passedOut, s.passedIn = make([]uint64, len(names)), make([]uint64, len(names))
		if clocks {
			s.clock, s.flying = make([]uint64, len(names)), make([][]sentClock, len(names))
		}
		f.sources = append(f.sources, s)
	}
	return f
}

// Note adds an event that no journal holds; its place among the events of its branch is that of its time.
func (f *Follower) Note(e Event) {
	i := slices.Index(f.names, e.Branch)
	if i < 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, note{i, e})
}

// Absent says that a branch's journal is on another machine: nobody waits for its sends.
func (f *Follower) Absent(name string) {
	if i := slices.Index(f.names, name); i >= 0 {
		f.sources[i].absent = true
	}
}

// Close releases the files.
func (f *Follower) Close() {
	for _, s := range f.sources {
		if s.tail != nil {
			s.tail.Close()
		}
	}
}

// Poll passes on all that can be passed on now. See may not keep the event's Clock. Error: a journal that
// can't be read, or see's.
func (f *Follower) Poll(see func(*Event) error) error {
	f.mu.Lock()
	for _, n := range f.notes { // before the journals are read: what led up to them is there
		f.sources[n.branch].notes = append(f.sources[n.branch].notes, n.event)
	}
	f.notes = f.notes[:0]
	f.mu.Unlock()
	for again := true; again; {
		again = false
		for _, s := range f.sources {
			if len(s.queue) > 0 {
				continue // it waits for another's send
			}
			if err := s.read(f.names); err != nil {
				return fmt.Errorf("the journal of %s: %w", f.names[s.index], err)
			}
			again = again || s.more
		}
		passed, err := f.merge(see)
		if err != nil {
			return err
		}
		again = again || passed
	}
	return nil
}

// read fills the queue with the next chunk.
func (s *source) read(names []string) error {
	s.more = false
	if s.tail == nil {
		fs, err := journal.ReadDir(s.dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		s.tail = journal.NewTail(fs)
	}
	var err error
	s.more, err = s.tail.Read(chunk, s.begin, func(index uint64, events []byte) error {
		k := 0
		err := s.ledger.Follow(events, func(e ledger.Event) {
			k++
			if index <= s.after || (index == s.after+1 && k <= s.part) {
				s.passed(e) // before a resume
				return
			}
			if n := len(s.queue); n > 0 && s.queue[n-1].gap {
				s.queue[n-1].At = e.At
			}
			s.queue = append(s.queue, item{Event: e, commit: index, started: s.ledger.Incarnation()})
		})
		if err == nil && s.ledger.Opened() && !slices.Equal(s.ledger.Plan().Names, names) {
			err = fmt.Errorf("is of a bank of the branches %v", s.ledger.Plan().Names)
		}
		if index > s.after {
			s.after, s.part = index, 0
		}
		return err
	})
	return err
}

// passed notes the number of a send.
func (s *source) passed(e ledger.Event) {
	if e.Kind == ledger.Sent || e.Kind == ledger.MarkerSent {
		s.sent[e.Peer] = max(s.sent[e.Peer], e.N)
	}
}

// begin takes the state that the journal starts from. What was sent before it is in no journal any more.
func (s *source) begin(last uint64, state []byte) error {
	s.ledger = new(ledger.Ledger)
	if last == 0 {
		return nil
	}
	if err := s.ledger.Load(state); err != nil {
		return err
	}
	if len(s.ledger.Plan().Names) != len(s.sent) {
		return fmt.Errorf("is of a bank of the branches %v", s.ledger.Plan().Names)
	}
	if last <= s.after {
		last = 0 // it holds nothing new
	}
	lost := false
	for peer := range s.sent {
		if peer != s.index {
			lost = lost || last > 0 && (s.ledger.Sent(peer) != s.passedOut[peer] || s.ledger.Received(peer) != s.passedIn[peer])
			s.sent[peer] = max(s.sent[peer], s.ledger.Sent(peer))
		}
	}
	if lost {
		s.queue = append(s.queue, item{Event: ledger.Event{Balance: s.ledger.Balance()}, gap: true, commit: last})
	}
	if last > 0 {
		s.after, s.part = last, 0
	}
	return nil
}

// merge passes on events until every queue is empty or waits for a send of another.
func (f *Follower) merge(see func(*Event) error) (passed bool, err error) {
	for {
		next := f.next()
		if next == nil {
			break
		}
		passed = true
		it := next.queue[0]
		if len(next.notes) > 0 && int64(next.notes[0].At) < it.At {
			err = f.passNote(next, see)
		} else {
			next.queue = next.queue[1:]
			err = see(f.event(next, it))
		}
		if err != nil {
			return passed, err
		}
	}
	for _, s := range f.sources {
		if len(s.queue) == 0 {
			s.queue = nil // or its array only grows
		}
		for len(s.queue) == 0 && !s.more && len(s.notes) > 0 {
			if err := f.passNote(s, see); err != nil {
				return passed, err
			}
		}
	}
	return passed, nil
}

// next is the source whose next event is the oldest of those that wait for nothing.
func (f *Follower) next() *source {
	var oldest *source
	for _, s := range f.sources {
		if len(s.queue) == 0 {
			continue
		}
		it := &s.queue[0]
		if it.Kind == ledger.Received || it.Kind == ledger.MarkerReceived {
			if from := f.sources[it.Peer]; it.N > from.sent[s.index] && !from.absent {
				continue
			}
		}
		if oldest == nil || it.At < oldest.queue[0].At {
			oldest = s
		}
	}
	return oldest
}

// passNote passes on a note of a source.
func (f *Follower) passNote(s *source, see func(*Event) error) error {
	e := s.notes[0]
	s.notes = s.notes[1:]
	e.Balance = s.balance
	e.Clock = f.tick(s)
	return see(&e)
}

// event is the event of an item, with its clock.
func (f *Follower) event(s *source, it item) *Event {
	e := &Event{
		At: Time(it.At), Branch: f.names[s.index], Money: it.Money, N: it.N, SnapshotID: it.Snapshot,
		Balance: it.Balance, Commit: it.commit,
	}
	if it.gap {
		e.Kind, e.Text = Gap, fmt.Sprintf("events up to commit %d were not read", it.commit)
	} else {
		e.Kind = kindOf(it.Event, it.started)
	}
	s.count(it.Peer, e)
	if it.Peer != s.index && !it.gap {
		e.Peer = f.names[it.Peer]
	}
	if f.clocks && (e.Kind == Receive || e.Kind == MarkerReceived) {
		s.land(&f.sources[it.Peer].flying[s.index], it.N)
	}
	e.Clock = f.tick(s)
	if e.Kind == Send || e.Kind == MarkerSent {
		s.sent[it.Peer] = max(s.sent[it.Peer], it.N)
		if f.clocks {
			s.flying[it.Peer] = append(s.flying[it.Peer], sentClock{it.N, slices.Clone(s.clock)})
		}
	}
	return e
}

// land takes the sends up to number n off those that are on their way to the source; it knows of the nth then.
func (s *source) land(flying *[]sentClock, n uint64) {
	for ; len(*flying) > 0 && (*flying)[0].n <= n; *flying = (*flying)[1:] {
		if (*flying)[0].n == n {
			for i, known := range (*flying)[0].clock {
				s.clock[i] = max(s.clock[i], known)
			}
		}
	}
}

// count notes how far the source has come.
func (s *source) count(peer int, e *Event) {
	s.balance = e.Balance
	switch e.Kind {
	case Send, MarkerSent:
		s.passedOut[peer] = e.N
	case Receive, MarkerReceived:
		s.passedIn[peer] = e.N
	}
}

// tick counts an event of a source in its clock.
func (f *Follower) tick(s *source) Clock {
	if !f.clocks {
		return nil
	}
	s.clock[s.index]++
	c := make(Clock, len(s.clock))
	for i, n := range s.clock {
		if n > 0 {
			c[f.names[i]] = n
		}
	}
	return c
}

// Resume takes over an event that was passed on before, by another follower. It is called for all of them
// in their order, before the first Poll.
func (f *Follower) Resume(e *Event) {
	i := slices.Index(f.names, e.Branch)
	if i < 0 {
		return
	}
	s := f.sources[i]
	peer := slices.Index(f.names, e.Peer)
	s.count(max(0, peer), e)
	switch {
	case e.Kind == Gap:
		s.after, s.part = e.Commit, 0
	case e.Commit > s.after+1:
		s.after, s.part = e.Commit-1, 1
	case e.Commit > s.after:
		s.part++
	}
	if f.clocks {
		for j, name := range f.names {
			s.clock[j] = max(s.clock[j], e.Clock[name])
		}
	}
	if peer < 0 || !f.clocks {
		return
	}
	switch e.Kind {
	case Send, MarkerSent:
		s.flying[peer] = append(s.flying[peer], sentClock{e.N, slices.Clone(s.clock)})
	case Receive, MarkerReceived:
		s.land(&f.sources[peer].flying[i], e.N)
	}
}
