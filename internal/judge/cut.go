package judge

import (
	"fmt"
	"math"
	"slices"
)

// snapshot is one in progress, or one that never got complete.
type snapshot struct {
	id         uint64
	initiator  int
	begun      int64 // number of the event
	marks      [][]*mark
	asked      int64 // number of the event, and when: the first RetrieveSnapshot
	askedUS    int64
	passed     int // markers
	answers    []*Event
	answered   int
	answeredAt []int64  // numbers of events
	before     []uint64 // no more money than that was sent by each branch before its cut
	late       bool     // a fault came before it was complete
}

// mark is a marker on its channel.
type mark struct {
	sent, passed int64
	at, passedUS int64
	sum          uint64 // money ahead of it since the bank was opened
	tail         []item // transfers ahead of it, the last ones; known once it has passed
	all          bool   // tail is all there was
}

// mismatch is a branch whose answer is not what passed, by d; why tells what would explain it.
type mismatch struct {
	e      Event
	text   string
	marker string // a late marker
	twice  bool   // counted in the balance and in the channels
	order  bool   // channel states in another order
}

func (j *Judge) start(e Event) {
	n := len(j.names)
	s := &snapshot{id: e.ID, initiator: e.To, begun: j.now, marks: make([][]*mark, n), answers: make([]*Event, n), answeredAt: make([]int64, n), before: make([]uint64, n)}
	for i := range s.marks {
		s.marks[i] = make([]*mark, n)
	}
	j.snapshots[e.ID] = s
	j.highest = max(j.highest, e.ID)
	j.order = append(j.order, e.ID)
	if len(j.order) > maxPending {
		delete(j.snapshots, j.order[0])
		j.order = j.order[1:]
	}
}

func (j *Judge) marker(e Event, c *channel) {
	s := j.snapshots[e.ID]
	switch {
	case e.ID == 0 || e.ID > j.highest:
		j.broken(IDs, e, message(e)+": no such snapshot was started")
		return
	case s == nil:
		return
	}
	j.kept(IDs)
	if s.marks[e.From][e.To] != nil {
		if !j.faulty() {
			j.broken(Markers, e, message(e)+" a second time on this channel")
		}
		return
	}
	s.marks[e.From][e.To] = &mark{sent: j.now, at: e.AtUS, sum: c.sum}
	if !j.faulty() {
		c.marked = max(c.marked, s.begun)
	}
}

// arrived: a marker is about to be received, behind these items.
func (j *Judge) arrived(s *snapshot, e Event, c *channel, ahead []item) {
	m := s.marks[e.From][e.To]
	if m == nil || m.passed != 0 {
		return
	}
	m.passed, m.passedUS = j.now, e.AtUS
	if c.many || c.lost {
		s.late = true // what is ahead of it is not known
	}
	left := m.sum
	for k := len(ahead) - 1; k >= 0 && len(m.tail) < maxShown; k-- {
		if !ahead[k].marker {
			m.tail = append(m.tail, ahead[k])
			left -= ahead[k].money
		}
	}
	m.all = left == 0
	slices.Reverse(m.tail)
	s.passed++
	j.settle(s)
}

func (j *Judge) answer(e Event) {
	s := j.snapshots[e.ID]
	if e.ID == 0 || e.ID > j.highest {
		j.broken(IDs, e, "ReturnSnapshot "+number(e.ID)+": no such snapshot was started")
		return
	}
	j.kept(IDs)
	j.branches[e.From].paused = false
	j.owed = slices.DeleteFunc(j.owed, func(o owed) bool { return o.snapshot == e.ID && o.branch == e.From })
	if s == nil || s.answers[e.From] != nil {
		return
	}
	j.keptBy(e.From, Answers)
	if e.Balance >= 1<<31 && j.total < 1<<30 {
		j.broken(Negative, e, "ReturnSnapshot "+number(e.ID)+": a balance of "+number(e.Balance)+" is a negative one in 32 bits")
	}
	s.answers[e.From] = &e
	s.answered++
	if n := len(e.States); n != len(j.names)-1 && (n > 0 || j.faultAt == "") { // who was started anew may know nothing of it
		why := "zeros have to be there too"
		if n == len(j.names) {
			why = "the branch itself is left out"
		}
		j.broken(Order, e, fmt.Sprintf("ReturnSnapshot %d: %d channel states %v of %d channels: %s", e.ID, n, e.States, len(j.names)-1, why))
	}
	s.answeredAt[e.From], s.before[e.From] = j.now, j.sentBefore(e)
	if s.answered == len(j.names) {
		j.sum(s, e)
	}
	j.settle(s)
}

// sentBefore is how much a branch has sent before its cut at most: all that it had and was handed until it answered,
// without the balance that it recorded.
func (j *Judge) sentBefore(e Event) uint64 {
	b := &j.branches[e.From]
	had := add(b.initial, b.in)
	if j.faultAt != "" || e.Balance > had {
		return math.MaxUint64 // not known
	}
	return had - e.Balance
}

func (j *Judge) sum(s *snapshot, e Event) {
	var sum uint64
	for _, a := range s.answers {
		sum = add(sum, a.Balance)
		for _, money := range a.States {
			sum = add(sum, money)
		}
	}
	switch {
	case sum == j.total:
		j.kept(Sum)
	case j.faulty():
		j.note(fmt.Sprintf("snapshot %d sums to %d, not to %d, after %s", s.id, sum, j.total, j.faultAt))
	default:
		e.From, e.To = Controller, Controller
		j.broken(Sum, e, fmt.Sprintf("snapshot %d sums to %d, not to %d", s.id, sum, j.total))
	}
}

// settle judges a snapshot once all markers have passed and all branches have answered.
func (j *Judge) settle(s *snapshot) {
	n := len(j.names)
	if s.answered < n || s.passed < n*(n-1) {
		return
	}
	delete(j.snapshots, s.id)
	j.complete++
	if s.late || j.faultAt != "" {
		return
	}
	for k := range j.names {
		j.cut(s, k)
	}
}

// cut holds one branch's answer against what passed.
func (j *Judge) cut(s *snapshot, self int) {
	recorded := int64(1)<<62 - 1 // by then
	for to, m := range s.marks[self] {
		if to != self {
			recorded = min(recorded, m.sent)
		}
	}
	a := *s.answers[self]
	others := j.others(self)
	form := len(a.States) == len(others)
	if form {
		misfit := slices.IndexFunc(others, func(i int) bool { return !s.fits(i, self, a.States[other(self, i)], recorded) })
		d := j.difference(s, self)
		switch {
		case misfit < 0:
			for _, money := range a.States { // an empty channel is no evidence: who never looks says so too
				if money > 0 {
					j.kept(ChannelState)
				}
			}
			if j.ordered(s, self, recorded) {
				j.kept(Order)
			}
			j.first(s, self, recorded)
		case d == 0 && s.permuted(others, self, a.States, recorded, -1):
			j.reordered = true
			i := others[misfit]
			j.broken(Order, a, fmt.Sprintf("ReturnSnapshot %d: channel states %v: %d is not what was on its way on %s, but in another order all fit: "+
				"another order than the file's, or senders mixed up", s.id, a.States, a.States[misfit], j.arrow(i, self)))
		default:
			i := others[misfit]
			e := a
			e.From, e.To = i, self
			j.broken(ChannelState, e, fmt.Sprintf("ReturnSnapshot %d of %s: %d on this channel, but %s", s.id, j.names[self], a.States[misfit],
				s.seen(i, self, recorded)))
			return // what the balance has to be follows from the states
		}
	}
	j.books(s, self)
}

// ordered tells whether the states show their order: some are not zero, and backwards they would not fit.
func (j *Judge) ordered(s *snapshot, self int, recorded int64) bool {
	states := s.answers[self].States
	backwards := func(i int) uint64 { return states[len(states)-1-other(self, i)] }
	return slices.Max(states) > 0 && (len(states) == 1 || slices.ContainsFunc(j.others(self), func(i int) bool {
		return !s.fits(i, self, backwards(i), recorded)
	}))
}

// fits tells whether money can be the state of a channel: that of the last transfers ahead of the
// marker, among them all that arrived after the branch had recorded.
func (s *snapshot) fits(from, to int, money uint64, recorded int64) bool {
	m := s.marks[from][to]
	var sum uint64
	for k := len(m.tail); sum <= money; k-- {
		if sum == money && (k == 0 || m.tail[k-1].passed < recorded) {
			return true
		}
		if k == 0 {
			return !m.all // it can't be told
		}
		sum += m.tail[k-1].money
	}
	return false
}

// seen is what fits compares with, for people.
func (s *snapshot) seen(from, to int, recorded int64) string {
	const shown = 5
	m := s.marks[from][to]
	var after uint64
	for _, i := range m.tail {
		if i.passed > recorded {
			after += i.money
		}
	}
	text := fmt.Sprintf("at least %d arrived between the recording and the marker, and the last transfers ahead of it are", after)
	for k := len(m.tail) - 1; k >= 0 && k >= len(m.tail)-shown; k-- {
		text += " " + number(m.tail[k].money)
	}
	if len(m.tail) == 0 {
		text += " none"
	}
	return text
}

// permuted tells whether the states fit the channels in some order, in which channel empty has none.
func (s *snapshot) permuted(others []int, self int, states []uint64, recorded int64, empty int) bool {
	used := make([]int, len(others)) // by state: channel + 1
	var place func(channel int, seen []bool) bool
	place = func(channel int, seen []bool) bool { // an augmenting path
		for k, money := range states {
			if seen[k] || others[channel] == empty && money > 0 || !s.fits(others[channel], self, money, recorded) {
				continue
			}
			seen[k] = true
			if used[k] == 0 || place(used[k]-1, seen) {
				used[k] = channel + 1
				return true
			}
		}
		return false
	}
	for channel := range others {
		if !place(channel, make([]bool, len(states))) {
			return false
		}
	}
	return true
}

// first holds the channels against the rule of the first marker: whichever came first, its channel is
// empty. Only those that had passed before the branch's own marker was seen can have been first.
func (j *Judge) first(s *snapshot, self int, recorded int64) {
	if self == s.initiator {
		return
	}
	a, e := s.answers[self], *s.answers[self]
	var first []int
	for _, i := range j.others(self) {
		if s.marks[i][self].passed < recorded {
			first = append(first, i)
		}
	}
	if len(first) == 0 {
		j.broken(FirstMarker, e, fmt.Sprintf("marker %d sent before one was handed to %s, and it was not asked to start", s.id, j.names[self]))
		return
	}
	for _, i := range first {
		if a.States[other(self, i)] == 0 {
			j.kept(FirstMarker)
			return
		}
	}
	e.From, e.To = first[0], self
	m := mismatch{e: e, text: fmt.Sprintf("ReturnSnapshot %d of %s: the first marker came here, but the channel is not empty: %d",
		s.id, j.names[self], a.States[other(self, first[0])])}
	m.order = j.difference(s, self) == 0 && slices.ContainsFunc(first, func(i int) bool {
		return s.permuted(j.others(self), self, a.States, recorded, i)
	})
	if len(j.notEmpty) < maxMismatch {
		j.notEmpty = append(j.notEmpty, m)
	}
}

// difference is how much more a branch reports than what passed.
func (j *Judge) difference(s *snapshot, self int) int64 {
	a := s.answers[self]
	d := int64(a.Balance) - int64(j.branches[self].initial) //nolint:gosec // both far below
	for _, money := range a.States {
		d += int64(money) //nolint:gosec // as above
	}
	for _, i := range j.others(self) {
		d += int64(s.marks[self][i].sum) - int64(s.marks[i][self].sum) //nolint:gosec // as above
	}
	return d
}

// books holds balance and states of a branch against what passed to and from it.
func (j *Judge) books(s *snapshot, self int) {
	d := j.difference(s, self)
	if d == 0 {
		j.kept(Books)
		j.rules[Markers].checks += len(j.names) - 1
		return
	}
	more := fmt.Sprintf("%d more", d)
	if d < 0 {
		more = fmt.Sprintf("%d less", -d)
	}
	a := *s.answers[self]
	m := mismatch{e: a, text: fmt.Sprintf("ReturnSnapshot %d: balance %d and channels %v are %s than what passed to and from %s ahead of the markers",
		s.id, a.Balance, a.States, more, j.names[self])}
	var onChannels int64
	for _, money := range a.States {
		onChannels += int64(money) //nolint:gosec // far below
	}
	m.twice = d == onChannels
	if channel, late := j.lateMarker(s, self, d); late {
		mk := s.marks[self][channel]
		m.marker = fmt.Sprintf("Marker %d comes after transfers of %d that were made after the recording", s.id, d)
		m.e.From, m.e.To, m.e.AtUS = self, channel, mk.at
	}
	if len(j.mismatch) < maxMismatch {
		j.mismatch = append(j.mismatch, m)
	}
}

// lateMarker tells whether d is the money of transfers that left after the recording may have been
// made, ahead of the markers; and names a channel.
func (j *Judge) lateMarker(s *snapshot, self int, d int64) (channel int, late bool) {
	if d < 0 {
		return 0, false
	}
	cause := s.begun
	if self != s.initiator {
		cause = 1 << 62
		for _, i := range j.others(self) {
			cause = min(cause, s.marks[i][self].passed)
		}
	}
	const maxWays = 1 << 12
	ways := map[int64]int{0: -1} // sum → the last channel that it needs
	for _, to := range j.others(self) {
		next := make(map[int64]int, len(ways))
		for sum, by := range ways {
			next[sum] = by
		}
		tail := s.marks[self][to].tail
		var sum int64
		for k := len(tail) - 1; k >= 0 && tail[k].sent > cause && sum <= d; k-- {
			sum += int64(tail[k].money) //nolint:gosec // far below
			for before := range ways {
				if _, known := next[before+sum]; !known && len(next) < maxWays && before+sum <= d {
					next[before+sum] = to
				}
			}
		}
		ways = next
	}
	if to, ok := ways[d]; ok {
		return to, true
	}
	return 0, false
}

// add stops at the top: an impossible amount must not wrap around into a possible one.
func add(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}

func (j *Judge) others(self int) []int {
	all := make([]int, 0, len(j.names)-1)
	for i := range j.names {
		if i != self {
			all = append(all, i)
		}
	}
	return all
}

// other is the place of a branch in a list that leaves out the one whose list it is.
func other(self, i int) int {
	if i > self {
		return i - 1
	}
	return i
}
