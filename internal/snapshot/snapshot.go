// Package snapshot is the algorithm of Chandy and Lamport, "Distributed Snapshots: Determining Global
// States of Distributed Systems" (ACM TOCS 3(1), 1985), and nothing else.
//
// It is written in terms of channels and running totals. A channel is one direction between two
// processes and delivers in order (FIFO). A process counts, for each channel, what it has sent or
// received since the beginning; that makes the state of a channel a subtraction:
//
//	         recording                 marker
//	             |                       |
//	-------------●──a──────b──────c──────◆────────>  time at the receiver
//	      received = 7                received = 10   state of the channel = 10 − 7 = 3: a, b, c
//
// So a message costs nothing here, however many snapshots are in progress: this package is not
// even called for it. It is called when a process starts a snapshot and when a marker arrives.
//
// Not here: what the money is for, how markers travel, who asked, how anything is kept. The caller
// sends the markers, on every outgoing channel and before any later message, and makes one atomic
// step of a recording and its markers.
//
// Invariant: of each snapshot in progress, a channel is either being recorded or closed by exactly
// one marker; a recording with no channel left to record is complete and is held here no longer.
package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Initiator stands in Recording.FirstFrom for "no channel: this process started the snapshot".
const Initiator = -1

// ErrDuplicateMarker says that a channel delivered a second marker of the same snapshot: the
// channel is not exactly-once.
var ErrDuplicateMarker = errors.New("second marker of the same snapshot on a channel")

// Flow is what has passed a point of a channel since the beginning: whole transfers and their money.
type Flow struct {
	Count uint64
	Money uint64
}

// Minus is what passed since the flow stood at earlier.
func (f Flow) Minus(earlier Flow) Flow {
	return Flow{Count: f.Count - earlier.Count, Money: f.Money - earlier.Money}
}

// State is the process whose state is recorded.
type State interface {
	// Balance is the process state of the paper.
	Balance() uint64
	// Flows of the two channels between this process and a peer, up to now.
	Flows(peer int) (sent, received Flow)
}

// Channel is one peer in a recording.
type Channel struct {
	Sent     Flow // to the peer, before the recording
	Received Flow // from the peer, before the recording
	State    Flow // in transit from the peer; valid when Closed
	Closed   bool // the marker came
}

// Recording is the part of one process in one snapshot.
type Recording struct {
	ID        uint64
	Balance   uint64
	FirstFrom int       // peer whose marker came first, or Initiator
	Channels  []Channel // by peer; the process's own entry is closed and empty
	// Incarnation and times are carried for people, never decided on. Times are microseconds since
	// 1970.
	Incarnation uint64
	RecordedAt  int64
	CompletedAt int64

	open int // channels still being recorded
}

// Complete tells that no channel is being recorded any longer.
func (r *Recording) Complete() bool { return r.open == 0 }

// InTransit is the money recorded on the incoming channels.
func (r *Recording) InTransit() uint64 {
	var sum uint64
	for i := range r.Channels {
		sum += r.Channels[i].State.Money
	}
	return sum
}

// Process is the part of one process in all snapshots in progress.
type Process struct {
	self, n    int
	inProgress map[uint64]*Recording
}

// NewProcess is process number self of n.
func NewProcess(self, n int) *Process {
	return &Process{self: self, n: n, inProgress: make(map[uint64]*Recording)}
}

// Get is the recording of a snapshot in progress, or nil.
func (p *Process) Get(id uint64) *Recording { return p.inProgress[id] }

// Len is the number of snapshots in progress.
func (p *Process) Len() int { return len(p.inProgress) }

// InProgress lists the snapshots in progress by ascending id.
func (p *Process) InProgress() []*Recording {
	return slices.SortedFunc(maps.Values(p.inProgress), func(a, b *Recording) int { return cmp.Compare(a.ID, b.ID) })
}

// Resume takes back a recording that was listed by InProgress before a restart.
func (p *Process) Resume(r *Recording) {
	r.open = 0
	for i := range r.Channels {
		if !r.Channels[i].Closed {
			r.open++
		}
	}
	p.inProgress[r.ID] = r
}

// Start is the paper's spontaneous recording: the process records its state and owes a marker on
// every outgoing channel. It starts to record every incoming channel. The id must be new.
func (p *Process) Start(id uint64, now State) *Recording {
	return p.record(id, Initiator, now)
}

// Marker is the Marker-Receiving Rule (section 3.2 of the paper) for process q on channel c:
//
//	if q has not recorded its state then
//	    begin q records its state; q records the state of c as the empty sequence end
//	else q records the state of c as the sequence of messages received along c after q's state
//	    was recorded and before q received the marker along c.
//
// It reports whether this was the first marker of the snapshot: then the caller owes a marker on
// every outgoing channel (Marker-Sending Rule). A recording that is complete afterwards is no longer
// held here. Error: ErrDuplicateMarker.
func (p *Process) Marker(id uint64, from int, now State) (r *Recording, first bool, err error) {
	r = p.inProgress[id]
	if r == nil {
		r, first = p.record(id, from, now), true
	}
	c := &r.Channels[from]
	if c.Closed {
		return nil, false, fmt.Errorf("snapshot %d, channel from peer %d: %w", id, from, ErrDuplicateMarker)
	}
	_, received := now.Flows(from)
	c.State = received.Minus(c.Received) // empty when this marker was the first
	c.Closed = true
	r.open--
	if r.Complete() {
		delete(p.inProgress, id)
	}
	return r, first, nil
}

// record is the first half of the Marker-Sending Rule: the state of the process, and for each
// channel how far it had come.
func (p *Process) record(id uint64, from int, now State) *Recording {
	r := &Recording{ID: id, Balance: now.Balance(), FirstFrom: from, Channels: make([]Channel, p.n), open: p.n - 1}
	for i := range r.Channels {
		if i == p.self {
			r.Channels[i].Closed = true
			continue
		}
		r.Channels[i].Sent, r.Channels[i].Received = now.Flows(i)
	}
	p.inProgress[id] = r
	return r
}
