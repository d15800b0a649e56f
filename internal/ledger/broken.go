package ledger

import (
	"slices"

	"cutbank/internal/rules"
)

// What a bank does that was opened without one of the rules (package rules). All of it is asked per
// snapshot, connection or start, never per transfer.

// owed is a marker that should have gone out with the recording.
type owed struct {
	peer  int
	id    uint64
	count uint64 // of transfers to the peer at the recording
}

func (l *Ledger) owesMarkers() bool {
	return l.plan.Broken == rules.MarkerOvertaken || l.plan.Broken == rules.MarkersInSeparateBatch
}

func (l *Ledger) owe(id uint64) {
	for peer := range l.pairs {
		if peer != l.self {
			l.owed = append(l.owed, owed{peer, id, l.pairs[peer].sentFlow.Count})
		}
	}
}

// SendOwed sends markers that a bank without a rule still owes: with MarkerOvertaken those that a
// transfer has passed. In a bank with all rules there are none.
func (l *Ledger) SendOwed(out *Output) {
	l.owed = slices.DeleteFunc(l.owed, func(o owed) bool {
		if l.plan.Broken == rules.MarkerOvertaken && l.pairs[o.peer].sentFlow.Count == o.count {
			return false
		}
		out.Persist = appendAll(appendBare(out.Persist, bareLateMarker), uint64(o.peer), o.id) //nolint:gosec // an index
		l.push(o.peer, Item{Marker: o.id})
		out.touch(o.peer)
		return true
	})
}

// restartBroken is what a start loses without a rule: markers that were owed, recordings that were in
// memory only.
func (l *Ledger) restartBroken() {
	l.owed = nil
	if l.plan.Broken != rules.RecordingNotJournaled {
		return
	}
	for _, r := range l.process.InProgress() {
		r.Balance = l.balance
		for i := range r.Channels {
			r.Channels[i].Sent, r.Channels[i].Received = l.Flows(i)
		}
	}
}
