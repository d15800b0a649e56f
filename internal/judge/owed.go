package judge

import (
	"fmt"
	"slices"
)

// owed is an answer that has not come within the time. It may still.
type owed struct {
	snapshot uint64
	branch   int
	e        Event // of who is to blame; From is Controller when it can't be told
	text     string
}

// missing: a branch has not answered yet.
func (j *Judge) missing(e Event) {
	s := j.snapshots[e.ID]
	if j.faulty() || s == nil || len(j.owed) >= maxMismatch {
		return
	}
	o := owed{snapshot: e.ID, branch: e.From, e: e, text: "no answer to RetrieveSnapshot " + number(e.ID) + " within " + e.Text}
	o.e.From = j.debtor(s, e)
	switch {
	case o.e.From < 0 || j.branches[o.e.From].paused || j.branches[e.From].paused:
		o.e.From = Controller
	case o.e.From != e.From:
		o.text += ": " + j.names[o.e.From] + " has sent it no marker, though it was asked for the snapshot or was handed one"
		o.e.To = e.From
	}
	j.owed = append(j.owed, o)
}

// debtor is who keeps a branch from answering: itself when all markers were handed to it, or one that has sent
// it none though it had to; both in the first half of the wait, so that there was time. Else nobody can be blamed:
// of what a branch has sent to anybody something is not taken, so that it may be kept in the middle of a write.
func (j *Judge) debtor(s *snapshot, e Event) int {
	who, half := e.From, (s.askedUS+e.AtUS)/2
	caused := func(i int) bool {
		for _, row := range s.marks {
			if m := row[i]; m != nil && m.passed != 0 && m.passedUS < half {
				return true
			}
		}
		return i == s.initiator
	}
	kept := func(i int) bool {
		return slices.ContainsFunc(j.channels[i], func(c channel) bool {
			return c.passed < len(c.items) && c.items[c.passed].sent < s.asked
		})
	}
	if kept(who) {
		who = Controller
	}
	for _, i := range j.others(e.From) {
		m := s.marks[i][e.From]
		switch {
		case m != nil && m.passed != 0 && m.passedUS < half:
		case m == nil && caused(i) && !kept(i):
			return i
		default:
			who = Controller
		}
	}
	return who
}

// missingAnswers are those that have not come to the end.
func (j *Judge) missingAnswers(why map[Rule]string) {
	for _, o := range j.owed {
		if o.e.From < 0 {
			why[Answers] = o.text + " by " + j.names[o.branch] + ", which a pause or another branch may have caused"
			continue
		}
		j.broken(Answers, o.e, o.text)
	}
}

// missingMarkers: what a branch that has answered a snapshot sends on a channel after its cut belongs behind the
// marker: the marker of a snapshot that began after the answer, and any money beyond what it can have sent before.
func (j *Judge) missingMarkers() {
	for _, id := range j.order {
		s := j.snapshots[id]
		if s == nil || s.late {
			continue
		}
		for from, a := range s.answers {
			if a == nil {
				continue
			}
			for _, to := range j.others(from) {
				c := &j.channels[from][to]
				if s.marks[from][to] == nil && !c.many && (c.marked > s.answeredAt[from] || c.sure > s.before[from]) {
					e := *a
					e.From, e.To = from, to
					j.broken(Markers, e, fmt.Sprintf("no marker %d on this channel, though %s has answered that snapshot and has sent what belongs behind the marker", id, j.names[from]))
				}
			}
		}
	}
}
