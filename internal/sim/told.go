package sim

import (
	"google.golang.org/protobuf/proto"

	"cutbank/internal/ledger"
	"cutbank/proto/bankpb"
)

// told is what branches have told of snapshots, to whomever.
type told struct {
	snapshots map[uint64]*snapshotParts
}

type snapshotParts struct {
	parts     []*bankpb.ReturnSnapshot_LocalSnapshot // by branch
	missing   int
	void      bool // a branch lost its recording with a directory that nobody missed
	initiator int
	crashes   []int // by branch, when it was asked for
	again     bool  // such a directory lost the last markers only: they come again, and complete it later
}

func newTold() told { return told{map[uint64]*snapshotParts{}} }

// begin notes that a controller asks for a snapshot.
func (t told) begin(w *World, id uint64, initiator int) {
	s := t.get(w, id)
	s.initiator = initiator
	for i, n := range w.nodes {
		s.crashes[i] = n.crashes
	}
}

func (t told) get(w *World, id uint64) *snapshotParts {
	s := t.snapshots[id]
	if s == nil {
		s = &snapshotParts{
			parts: make([]*bankpb.ReturnSnapshot_LocalSnapshot, w.Branches), missing: w.Branches, crashes: make([]int, w.Branches),
		}
		t.snapshots[id] = s
	}
	return s
}

// part takes what a branch tells. The checkers look when all have told.
func (t told) part(w *World, i int, part *bankpb.ReturnSnapshot_LocalSnapshot) {
	s := t.get(w, part.GetSnapshotId())
	w.note("told", i, -1, part.GetSnapshotId())
	if before := s.parts[i]; before != nil {
		if s.again { // all but the time, which is for people
			before, part = proto.CloneOf(before), proto.CloneOf(part)
			before.CompletedAtUs, part.CompletedAtUs = 0, 0
		}
		if !s.void && !proto.Equal(before, part) {
			w.violate("I6 told once", "p%d told of snapshot %d first %v, then %v", i, part.GetSnapshotId(), before, part)
		}
		return
	}
	s.parts[i] = part
	if s.missing--; s.missing > 0 || s.void {
		return
	}
	w.Snapshots++
	w.note("complete", i, -1, part.GetSnapshotId())
	checkConservation(w, part.GetSnapshotId(), s.parts)
	checkChannels(w, part.GetSnapshotId(), s.parts)
	t.rare(w, s)
}

func (t told) rare(w *World, s *snapshotParts) {
	for i, n := range w.nodes {
		if n.crashes > s.crashes[i] {
			w.saw(AnyoneDown)
		}
		if i == s.initiator && n.crashes >= s.crashes[i]+2 {
			w.saw(InitiatorTwice)
		}
		for _, m := range s.parts[i].GetChannelState() {
			if m > 0 {
				w.saw(MoneyCrossed)
				return
			}
		}
	}
}

// common is how many items two histories of a channel begin with alike: each may go on in its own way.
func common(a, b []ledger.Item) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// forget voids the snapshots whose recording a branch loses when it goes on from an older directory: a
// limit that docs/model/README.md explains. It may record them once more.
func (t told) forget(now, then *books) {
	for p := range now.sent {
		for _, item := range now.sent[p][common(now.sent[p], then.sent[p]):] {
			if s := t.snapshots[item.Marker]; item.Marker != 0 && s != nil {
				s.void = true
			}
		}
		for _, item := range now.received[p][common(now.received[p], then.received[p]):] {
			if s := t.snapshots[item.Marker]; item.Marker != 0 && s != nil {
				s.again = true
			}
		}
	}
}
