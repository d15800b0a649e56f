// Package ledger is one branch's books: its balance, its two channels with each peer, and its part
// in every snapshot. It is pure: no clock, no goroutine, no socket, no file, no randomness, no log.
//
// Everything it knows is a fold over its events. An input method checks its input, applies an event
// and appends the event to Output.Persist; Replay applies the same events again after a crash, by
// the same code.
//
// # The contract of the caller
//
// The steps of a batch collect their effects in one Output, in the order in which they are owed:
//
//  1. Persist: every event of the batch, durably, as one.
//  2. Only then Channels: send the items of a channel up to the count that it had at the end of the
//     batch, acknowledge to a peer the count that was received then; and Completed: answer whoever
//     waits for those snapshots. What is shown to people is an output too.
//  3. For each destination the effects of one batch leave before those of the next.
//
// A batch that is not durable when the process dies never happened: nobody has heard of it.
//
// # Numbers
//
// The items of a channel (transfers and markers) are numbered from 1. Sent and received are counts,
// so the next item of a channel with count n has number n+1. An item is kept until the peer has
// acknowledged it, that is, until the peer has it durably.
//
// Invariant: the balance, plus what the peers have not yet received of the items sent, changes by
// what is received and by nothing else; the balance is never negative.
package ledger

import (
	"errors"
	"fmt"

	"cutbank/internal/rules"
	"cutbank/internal/snapshot"
)

// Limits of a branch. They bound what a peer or a client can make it hold.
const (
	// MaxInProgress is how many snapshots may be in progress at a branch before it starts no other.
	MaxInProgress = 64
	// maxMarked is how many may be in progress for the markers of others to be taken still. A peer may be
	// done with its own at once and start more, while this branch waits for a third one's markers.
	maxMarked = 1 << 16
	// MaxDone is how many completed snapshots are kept to be retrieved; older ones are forgotten.
	MaxDone = 128
	// MaxIDAhead is how far above the highest known id a new snapshot may lie.
	MaxIDAhead = 1_000_000
	// MaxMoney bounds every amount and balance: what readers of JSON hold exactly.
	MaxMoney = 1<<53 - 1
)

// Errors of the inputs. None of them changes anything.
var (
	ErrShort    = errors.New("balance too small")
	ErrWindow   = errors.New("window full: too many items are unacknowledged")
	ErrExists   = errors.New("snapshot exists")
	ErrTooMany  = errors.New("too many snapshots in progress")
	ErrTooFar   = errors.New("snapshot id too far above the highest known")
	ErrBadItem  = errors.New("broken channel")
	ErrNotMoney = errors.New("amount is not between 1 and 2^53-1")
)

// Item is what travels on a channel: money or a marker.
type Item struct {
	Money  uint64 // of a transfer, at least 1; 0 for a marker
	Marker uint64 // snapshot id of a marker, at least 1; 0 for a transfer
	ID     uint64 // of a transfer, in tests: its name in the logs of both ends; else 0
}

// Output collects the effects of the steps of a batch; the package comment has the contract.
type Output struct {
	Persist   []byte   // 1. events, packed: durable before anything else leaves
	Channels  []int    // 2. peers whose channels have new items to send or a new count to acknowledge
	Completed []uint64 // 2. snapshots that completed at this branch

	acks    int    // bytes of Persist that note acknowledgements
	touched []bool // by peer: is in Channels
}

// Reset empties the output for the next batch and keeps its memory.
func (o *Output) Reset() {
	for _, p := range o.Channels {
		o.touched[p] = false
	}
	o.Persist, o.Channels, o.Completed, o.acks = o.Persist[:0], o.Channels[:0], o.Completed[:0], 0
}

// Awaited tells that somebody may wait for the batch: it notes more than acknowledgements. Those lost
// in a crash only let the next position say less; the peer's own says the rest.
func (o *Output) Awaited() bool { return len(o.Persist) > o.acks || len(o.Channels) > 0 }

func (o *Output) touch(peer int) {
	if peer >= len(o.touched) {
		o.touched = append(o.touched, make([]bool, peer+1-len(o.touched))...)
	}
	if !o.touched[peer] {
		o.touched[peer] = true
		o.Channels = append(o.Channels, peer)
	}
}

// pair is the two channels with one peer.
type pair struct {
	out outbox // to the peer

	received     uint64 // items from the peer
	receivedHash uint64
	sentFlow     snapshot.Flow
	receivedFlow snapshot.Flow
}

// Ledger is the books of one branch. The zero value is a branch that belongs to no bank: only Open
// and Replay may be called on it. Not safe for concurrent use.
type Ledger struct {
	plan        Plan
	self        int
	limit       uint64 // no balance can be above it
	addresses   []string
	incarnation uint64

	balance uint64
	pairs   []pair // by peer; the own entry is unused
	process *snapshot.Process
	done    []*snapshot.Recording // completed, oldest first, at most MaxDone
	lastID  uint64                // highest snapshot id known
	floor   uint64                // ids up to it may be forgotten: none of them is started again
	owed    []owed                // of a bank without a rule; broken.go
}

// Opened tells whether the branch belongs to a bank.
func (l *Ledger) Opened() bool { return l.process != nil }

// Plan is what the bank was opened with. The caller must not change it.
func (l *Ledger) Plan() *Plan { return &l.plan }

// Self is the branch's index in the roster.
func (l *Ledger) Self() int { return l.self }

// Incarnation is the number of starts of this branch, from 1.
func (l *Ledger) Incarnation() uint64 { return l.incarnation }

// Addresses says where the branches were last, as host:port in file order.
func (l *Ledger) Addresses() []string { return l.addresses }

// Balance is the money in the branch.
func (l *Ledger) Balance() uint64 { return l.balance }

// Flows of the two channels with a peer since the bank was opened.
func (l *Ledger) Flows(peer int) (sent, received snapshot.Flow) {
	return l.pairs[peer].sentFlow, l.pairs[peer].receivedFlow
}

// Sent is the count of items on the channel to a peer.
func (l *Ledger) Sent(peer int) uint64 { return l.pairs[peer].out.sent }

// Received is the count of items on the channel from a peer.
func (l *Ledger) Received(peer int) uint64 { return l.pairs[peer].received }

// Acknowledged is the count of items on the channel to a peer that it has acknowledged.
func (l *Ledger) Acknowledged(peer int) uint64 { return l.pairs[peer].out.acked }

// Unacknowledged is the number of items on the channel to a peer that it may not have durably.
func (l *Ledger) Unacknowledged(peer int) int { return l.pairs[peer].out.len() }

// Item is number n of the channel to a peer; it must be unacknowledged.
func (l *Ledger) Item(peer int, n uint64) Item { return l.pairs[peer].out.at(n).Item }

// LastSnapshotID is the highest snapshot id that the branch knows.
func (l *Ledger) LastSnapshotID() uint64 { return l.lastID }

// SnapshotsInProgress is the number of snapshots in progress at this branch.
func (l *Ledger) SnapshotsInProgress() int { return l.process.Len() }

// Snapshot finds the branch's part of a snapshot: in progress, completed and kept (Complete tells
// which), or nil. Gone tells of a nil that it may have been completed and forgotten.
func (l *Ledger) Snapshot(id uint64) (r *snapshot.Recording, gone bool) {
	if r := l.process.Get(id); r != nil {
		return r, false
	}
	if r := l.completed(id); r != nil {
		return r, false
	}
	return nil, id <= l.floor
}

func (l *Ledger) completed(id uint64) *snapshot.Recording {
	for i := len(l.done) - 1; i >= 0; i-- {
		if l.done[i].ID == id {
			return l.done[i]
		}
	}
	return nil
}

// Open makes the branch part of a bank. Error: why the plan can't be.
func (l *Ledger) Open(out *Output, plan Plan, self string, addresses []string) error {
	if l.Opened() {
		return errors.New("ledger: opened twice")
	}
	i, err := plan.check(self, addresses)
	if err != nil {
		return err
	}
	out.Persist = appendPlace(appendBare(out.Persist, bareOpened), &plan, i, addresses)
	if plan.Broken != rules.None {
		out.Persist = appendString(appendBare(out.Persist, bareBroken), plan.Broken.String())
	}
	l.applyOpened(plan, i, addresses)
	for peer := range l.pairs {
		if l.pairs[peer].out.sent > 0 {
			out.touch(peer)
		}
	}
	return nil
}

// Start begins an incarnation.
func (l *Ledger) Start(out *Output) {
	out.Persist = appendBare(out.Persist, bareStarted)
	l.applyStarted()
}

// Move notes where the branches are now, as host:port in file order, so that a restarted branch
// finds them without a controller.
func (l *Ledger) Move(out *Output, addresses []string) error {
	if len(addresses) != len(l.plan.Names) {
		return fmt.Errorf("%d addresses for %d branches", len(addresses), len(l.plan.Names))
	}
	out.Persist = appendStrings(appendBare(out.Persist, bareMoved), addresses)
	l.addresses = addresses
	return nil
}

// Transfer takes money from the balance and puts it on the channel to a peer. Window bounds the
// unacknowledged items of the channel. Errors: ErrShort, ErrWindow, ErrNotMoney.
func (l *Ledger) Transfer(out *Output, to int, money, id uint64, window int) error {
	switch {
	case money == 0 || money > MaxMoney:
		return ErrNotMoney
	case money > l.balance:
		return ErrShort
	case l.pairs[to].out.len() >= window:
		return ErrWindow
	}
	out.Persist = appendSent(out.Persist, to, money, id)
	out.touch(to)
	l.applySent(to, money, id)
	return nil
}

// Receive takes items from the channel of a peer; first is the number of items[0]. Items that were
// received before are skipped. At is the time to note for people, in microseconds since 1970.
//
// Error: ErrBadItem for what an honest peer can't send: a gap, an empty item, money that the bank
// does not have, a marker twice. It ends the channel; of the items before the bad one some may be taken.
func (l *Ledger) Receive(out *Output, from int, first uint64, items []Item, at int64) error {
	p := &l.pairs[from]
	next := p.received + 1
	if first > next {
		return fmt.Errorf("%w: item %d came where %d was due", ErrBadItem, first, next)
	}
	items = items[min(next-first, uint64(len(items))):]
	if len(items) == 0 {
		return nil
	}
	out.touch(from)
	for len(items) > 0 {
		if id := items[0].Marker; id != 0 {
			if err := l.receiveMarker(out, from, id, at); err != nil {
				return err
			}
			items = items[1:]
			continue
		}
		run := transferRun(items)
		if err := l.receiveRun(out, from, items[:run]); err != nil {
			return err
		}
		items = items[run:]
	}
	return nil
}

// transferRun is the length of the run of transfers at the head, all with a name or all without.
func transferRun(items []Item) int {
	named := items[0].ID != 0
	for i := range items {
		if items[i].Marker != 0 || (items[i].ID != 0) != named {
			return i
		}
	}
	return len(items)
}

func (l *Ledger) receiveRun(out *Output, from int, run []Item) error {
	room := l.limit - l.balance
	for i := range run {
		if m := run[i].Money; m == 0 || m > room {
			return fmt.Errorf("%w: a transfer of %d, when the bank has %d and this branch %d",
				ErrBadItem, m, l.limit, l.balance)
		}
		room -= run[i].Money
	}
	out.Persist = appendReceived(out.Persist, from, run)
	l.applyReceived(from, run)
	return nil
}

func (l *Ledger) receiveMarker(out *Output, from int, id uint64, at int64) error {
	if id > MaxMoney || l.process.Get(id) == nil && l.process.Len() >= maxMarked {
		return fmt.Errorf("%w: marker %d, with %d snapshots in progress", ErrBadItem, id, l.process.Len())
	}
	if l.markerTwice(from, id) {
		return fmt.Errorf("%w: marker %d came twice", ErrBadItem, id)
	}
	out.Persist = appendMarker(out.Persist, from, id, at)
	first, complete := l.applyMarker(from, id, at)
	if first {
		l.touchAll(out)
	}
	if complete {
		out.Completed = append(out.Completed, id)
	}
	return nil
}

// markerTwice tells of a marker that the channel delivered before, as far as it is remembered.
func (l *Ledger) markerTwice(from int, id uint64) bool {
	if r := l.process.Get(id); r != nil {
		return r.Channels[from].Closed
	}
	return l.completed(id) != nil
}

// Acknowledge notes that a peer durably has count items of the channel to it. A count that was
// acknowledged before changes nothing. Error: ErrBadItem when so many were never sent.
func (l *Ledger) Acknowledge(out *Output, by int, count uint64) error {
	box := &l.pairs[by].out
	if count <= box.acked {
		return nil
	}
	if count > box.sent {
		return fmt.Errorf("%w: %d items acknowledged, of %d", ErrBadItem, count, box.sent)
	}
	before := len(out.Persist)
	out.Persist = appendAcked(out.Persist, by, count-box.acked)
	out.acks += len(out.Persist) - before
	box.acknowledge(count)
	return nil
}

// Initiate starts a snapshot at this branch. Errors: ErrExists (also for an id that may have been
// forgotten), ErrTooMany, ErrTooFar.
func (l *Ledger) Initiate(out *Output, id uint64, at int64) error {
	r, gone := l.Snapshot(id)
	switch {
	case r != nil, gone, id <= l.plan.LastSnapshotID:
		return ErrExists
	case id > l.lastID && id-l.lastID > MaxIDAhead: // the sum could overflow
		return fmt.Errorf("%w: %d is more than %d above %d", ErrTooFar, id, MaxIDAhead, l.lastID)
	case l.process.Len() >= MaxInProgress:
		return fmt.Errorf("%w: %d", ErrTooMany, MaxInProgress)
	}
	out.Persist = appendInitiated(out.Persist, id, at)
	l.applyInitiated(id, at)
	l.touchAll(out)
	return nil
}

func (l *Ledger) touchAll(out *Output) {
	for i := range l.pairs {
		if i != l.self {
			out.touch(i)
		}
	}
}
