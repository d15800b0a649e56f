// Package judge holds what was seen of a bank against the rules of the assignment. It is a fold of
// events into verdicts: no clock, no socket, no goroutine.
//
// What it can know. A proxy reads a message after it was sent (Sent), and hands it on before it is
// received (Passed); events are in the order in which they were noted. So what Passed after a branch's
// marker was Sent was received after that branch had recorded, and what a branch has received Passed before
// anything that it then says was noted; nothing else follows from the order.
// The money ahead of a marker on a channel is what was sent before the sender's cut. With that, for
// each branch of a complete snapshot
//
//	balance + states of its channels = first balance + money ahead of the markers to it − money ahead of its own
//
// and the state of a channel is the money of the last few transfers ahead of its marker.
//
// Invariant: a rule is broken only when no branch that keeps all rules can have caused the events, but
// for what Report says of late markers. What can't be told is not seen.
package judge

import "slices"

// Kind of an Event.
type Kind uint8

// Kinds of events. Branches are numbers in file order.
const (
	Sent     Kind = iota // a transfer (Money) or a marker (Marker, ID) of From, on its way to To on Conn
	Passed               // the next of those that were Sent that way on Conn, the same again, is about to be handed to To
	Frame                // another message of From, well framed
	BadBytes             // From sent what is no frame; Text says what it looks like
	Note                 // Text is worth telling: From does something unusual, which no rule forbids
	Init                 // InitBranch with Balance is about to be sent to To
	Snapshot             // InitSnapshot ID is about to be sent to To
	Retrieve             // RetrieveSnapshot ID is about to be sent to To
	Answer               // From's ReturnSnapshot: ID, Balance, States
	Missing              // From has not answered snapshot ID yet; Text says for how long
	Exited               // the process of From ended by itself; Text says how
	Killed               // the process of From was killed for the test
	Paused               // the process of From was paused for the test, and goes on by itself; of the controller: the proxies stood still
	Stopping             // the branches are about to be stopped
)

// Event is something that was seen.
type Event struct {
	AtUS     int64 // microseconds since the run began
	Kind     Kind
	Conn     int // number of a connection, from 1
	From, To int // Controller: the controller
	Marker   bool
	Money    uint64
	ID       uint64 // of a snapshot
	Balance  uint64
	States   []uint64
	Text     string
}

// Controller is the number of the controller among branches.
const Controller = -1

// Bounds of what is kept, for memory: what lies beyond is not judged.
const (
	maxTail     = 4096 // items per channel, half of which are dropped when it is full
	maxKept     = 1 << 21
	maxPending  = 64  // snapshots that are not complete
	maxShown    = 512 // transfers ahead of a marker
	maxNotes    = 16
	maxMismatch = 1024
)

// Judge is the fold. Make it with New; not safe for concurrent use.
type Judge struct {
	names []string
	total uint64

	now       int64 // number of the event
	rules     [numRules]finding
	branches  []branch
	channels  [][]channel // [from][to]
	pairs     map[[2]int]*pair
	snapshots map[uint64]*snapshot
	order     []uint64 // ids of snapshots, as they were started
	highest   uint64
	mismatch  []mismatch
	notEmpty  []mismatch // first channels with money
	owed      []owed     // answers
	reordered bool       // channel states were seen in another order
	tail      int        // items kept per channel
	faultAt   string
	stopping  bool
	pauses    bool // there were some: a link may have been made anew
	endedToo  bool // a branch ended by itself after a fault
	notes     []string
	complete  int
}

type branch struct {
	initAt  int64 // number of the event; 0: not yet
	initial uint64
	in, out uint64 // money passed to it, money sent by it
	paused  bool
	seen    [numRules]bool // it was seen to keep this rule: of those that each branch has to show
}

type channel struct {
	conn   int   // the first that carried an item
	many   bool  // more than one connection carried items
	lost   bool  // items that were not handed on yet had to be dropped
	marked int64 // when the newest snapshot began whose marker was here: number of the event
	sum    uint64
	sure   uint64 // the sum at the first fault
	items  []item
	passed int // so many of items, from the first on, have passed
}

type item struct {
	sent, passed int64 // numbers of events; 0: not yet
	conn         int
	marker       bool
	money, id    uint64
}

type pair struct{ conns []int }

// New begins with a bank of these branches, in file order.
func New(names []string, total uint64) *Judge {
	n := len(names)
	j := &Judge{
		names: names, total: total, branches: make([]branch, n), channels: make([][]channel, n),
		pairs: map[[2]int]*pair{}, snapshots: map[uint64]*snapshot{}, tail: max(64, min(maxTail, maxKept/(n*n))),
	}
	for i := range j.channels {
		j.channels[i] = make([]channel, n)
	}
	return j
}

// Misframed tells whether something was read that is no frame.
func (j *Judge) Misframed() bool { return j.rules[Framing].broken > 0 }

// Step takes the next event.
func (j *Judge) Step(e Event) {
	j.now++
	switch e.Kind {
	case Sent:
		j.keptBy(e.From, Framing)
		j.sent(e)
	case Passed:
		j.handed(e)
	case Frame:
		j.keptBy(e.From, Framing)
	case BadBytes:
		j.broken(Framing, e, e.Text)
	case Note:
		j.note(e.Text)
	case Init:
		if b := &j.branches[e.To]; b.initAt == 0 {
			b.initAt, b.initial = j.now, e.Balance
		}
	case Snapshot:
		j.start(e)
	case Answer:
		j.keptBy(e.From, Framing)
		j.answer(e)
	case Missing:
		j.missing(e)
	case Exited:
		j.exited(e)
	case Killed:
		j.fault(e, "was killed")
	case Paused:
		j.pauses = true
		if e.From >= 0 {
			j.branches[e.From].paused = true
			j.note(at(e.AtUS) + ": " + j.names[e.From] + " is paused: answers that it owes are not judged")
		}
	case Retrieve:
		if s := j.snapshots[e.ID]; s != nil && s.asked == 0 {
			s.asked, s.askedUS = j.now, e.AtUS
		}
	case Stopping:
		j.stopping = true
	}
}

func (j *Judge) channel(e Event) *channel {
	if e.From < 0 || e.To < 0 {
		return nil
	}
	return &j.channels[e.From][e.To]
}

// fault begins the time in which money may be lost, connections be made anew, and answers be late.
func (j *Judge) fault(e Event, what string) {
	if j.faultAt == "" {
		j.faultAt = at(e.AtUS) + ", when " + j.names[e.From] + " " + what
		j.note("judged until " + j.faultAt + ": what was in its memory or on its way may be lost; " +
			"after that only framing, amounts, ids and the form of answers")
	}
}

// exited: who ends after another's end may only have missed that one.
func (j *Judge) exited(e Event) {
	e.To = e.From
	if j.faulty() {
		j.note(at(e.AtUS) + ": " + j.names[e.From] + " ended too: " + e.Text)
		j.endedToo = true
		return
	}
	j.broken(Runs, e, "the process ended: "+e.Text)
	j.fault(e, "ended")
}

func (j *Judge) faulty() bool { return j.faultAt != "" || j.stopping }

func (j *Judge) note(text string) {
	if len(j.notes) < maxNotes && !slices.Contains(j.notes, text) {
		j.notes = append(j.notes, text)
	}
}

func (j *Judge) sent(e Event) {
	j.connection(e)
	c := j.channel(e)
	if e.Marker {
		j.marker(e, c)
	} else {
		j.transfer(e, c)
	}
	if len(c.items) >= j.tail {
		drop := len(c.items) / 2
		c.lost = c.lost || c.passed < drop
		c.items = append(c.items[:0], c.items[drop:]...)
		c.passed = max(0, c.passed-drop)
	}
	c.items = append(c.items, item{sent: j.now, conn: e.Conn, marker: e.Marker, money: e.Money, id: e.ID})
}

// connection: one per pair, which both directions use; and so each channel on one.
func (j *Judge) connection(e Event) {
	c := j.channel(e)
	if j.faulty() {
		return
	}
	key := [2]int{min(e.From, e.To), max(e.From, e.To)}
	p := j.pairs[key]
	if p == nil {
		p = &pair{}
		j.pairs[key] = p
	}
	if !slices.Contains(p.conns, e.Conn) && len(p.conns) < 2 {
		p.conns = append(p.conns, e.Conn)
	}
	switch {
	case c.conn == 0:
		c.conn = e.Conn
	case c.conn != e.Conn:
		c.many = true
	}
	switch {
	case e.Conn == p.conns[0]:
	case j.pauses: // it was given up meanwhile, and what was on it may be lost, or sent again
		j.fault(e, "used another connection after a pause")
	default:
		j.broken(Connection, e, message(e)+" on another connection than the first of this pair")
	}
}

func (j *Judge) transfer(e Event, c *channel) {
	from, to := &j.branches[e.From], &j.branches[e.To]
	c.sum += e.Money
	from.out = add(from.out, e.Money)
	if j.stopping {
		return
	}
	if j.faultAt == "" {
		c.sure = c.sum
		switch {
		case from.initAt == 0:
			j.broken(Start, e, message(e)+" before the sender was sent its InitBranch")
		case to.initAt == 0:
			j.broken(Start, e, message(e)+" before the receiver was sent its InitBranch")
		default:
			j.keptBy(e.From, Start)
		}
		if from.initAt != 0 && add(from.initial, from.in) < from.out {
			j.broken(Negative, e, message(e)+": "+j.names[e.From]+" has sent "+number(from.out-from.in-from.initial)+
				" more than it had at first and all that was handed to it")
		} else {
			j.keptBy(e.From, Negative)
		}
	}
	if from.initAt == 0 {
		return
	}
	low, high := max(1, from.initial/100), max(1, (from.initial+19)/20)
	if e.Money < low || e.Money > high {
		j.broken(Amount, e, message(e)+": not "+number(low)+" to "+number(high)+", 1 % to 5 % of the "+
			number(from.initial)+" that the branch began with")
	} else {
		j.keptBy(e.From, Amount)
	}
}

// handed notes that the next item of a connection is on its last stretch.
func (j *Judge) handed(e Event) {
	c := j.channel(e)
	to := &j.branches[e.To]
	to.in = add(to.in, e.Money)
	k := c.passed
	for k < len(c.items) && (c.items[k].conn != e.Conn || c.items[k].passed != 0) {
		k++
	}
	if k == len(c.items) {
		return // dropped
	}
	c.items[k].passed = j.now
	for c.passed < len(c.items) && c.items[c.passed].passed != 0 {
		c.passed++
	}
	if s := j.snapshots[e.ID]; e.Marker && s != nil {
		j.arrived(s, e, c, c.items[:k])
	}
}
