package supervise

import (
	"fmt"
	"time"

	"cutbank/internal/lifecycle"
)

// Times of the state machine.
const (
	checkEvery  = 250 * time.Millisecond // and how long a check may take; of many children longer
	maxMisses   = 3                      // in a row: then the child hangs. In less than 2 s, of few
	maxLate     = 100 * time.Millisecond // of the launcher's own timer: then a miss does not count
	pollEvery   = 10 * time.Millisecond  // instead of checkEvery, of a young child that is not ready
	pollFor     = 5 * time.Second
	remoteEvery = time.Second     // dials of a child that is not ours
	tellEvery   = 3 * time.Second // what a start waits for
)

// Inputs of the machine.
type (
	tick     struct{} // due has come
	launched struct { // answers doStart
		run     uint64
		pid     int
		adopted bool
		note    string // about the adopted process
	}
	held struct { // answers doStart: somebody else has the directory
		run uint64
		pid int
	}
	exited struct { // the process has ended, or could not be started
		run uint64
		exit
	}
	checked struct { // answers doCheck
		epoch  uint64
		answer lifecycle.Answer
	}
	dialled struct { // answers doDial
		epoch uint64
		up    bool
	}
	request struct{ verb verb }
)

// exit is how a process ended.
type exit struct {
	words     string
	cause     Cause // empty: nobody knows
	locked    bool  // it found its directory in use
	holder    int   // by this process; 0: not known
	adoptable bool  // which a launcher has started
}

// effect is what the machine wants done. The epoch goes back with the answer.
type effect struct {
	do    act
	epoch uint64
}

type act int

const (
	doStart  act = iota // find a living process or start one: launched, held or exited
	doCheck             // checked
	doDial              // dialled
	doTerm              // SIGTERM, and SIGCONT so that a stopped process sees it
	doKill              // SIGKILL
	doPause             // SIGSTOP
	doResume            // SIGCONT
	doSave              // pausedWanted has changed: on disk before what follows
)

// machine is the state machine of one child: a pure function of its inputs and their times. Desired
// (wanted, pausedWanted) and observed (the rest) are apart. Each request and each start begins an epoch:
// an answer to what was asked in an earlier one says nothing any more. Processes have a run of their own,
// since what happened to one stays true whatever was asked since.
type machine struct {
	name        string
	index, of   int // among the children: checks are spread out by it
	addr        string
	remote      bool // not on this machine
	start, stop time.Duration
	jitter      func(time.Duration) time.Duration

	wanted       verb // verbRestart: up (the zero value too); verbStop: down
	pausedWanted bool
	asked        Cause // why we end the process; empty: we don't
	epoch        uint64

	status   Status
	run      uint64
	failures int
	early    int
	healthy  bool // since its start
	readyAt  time.Time
	diedAt   time.Time
	young    time.Time // end of the short polls
	misses   int
	lateness bool // of the check under way
	checking bool
	sentAt   time.Time
	due      time.Time     // of the next check, dial or start; zero: none
	deadline time.Time     // of a start or a stop; zero: none
	limit    time.Duration // of a start, or of a step of it
	told     time.Time     // what a start waits for

	now     time.Time
	effects []effect
	events  []Event
}

// next is when the machine wants a tick; zero: not before another input.
func (m *machine) next() time.Time {
	if m.deadline.IsZero() || !m.due.IsZero() && m.due.Before(m.deadline) {
		return m.due
	}
	return m.deadline
}

// step takes an input and returns what is to be done and told. Error: a request that can't be.
func (m *machine) step(in any, now time.Time) (effects []effect, events []Event, err error) {
	m.now, m.effects, m.events = now, nil, nil
	switch in := in.(type) {
	case tick:
		m.tick()
	case launched:
		m.launched(in)
	case held:
		switch {
		case in.run != m.run:
		case m.wanted != "":
			m.become(Stopped)
			m.tell(EventStopped, Event{})
		default:
			m.foreign(in.pid)
		}
	case exited:
		if in.run == m.run {
			m.exited(in.exit)
		}
	case checked:
		if in.epoch == m.epoch && m.checking {
			m.checked(in.answer)
		}
	case dialled:
		if in.epoch == m.epoch && (m.status.State == Remote || m.status.State == Away) {
			m.dialled(in.up)
		}
	case request:
		err = m.request(in.verb)
	}
	return m.effects, m.events, err
}

func (m *machine) do(a act) { m.effects = append(m.effects, effect{a, m.epoch}) }

func (m *machine) tell(k Kind, e Event) {
	e.At, e.Child, e.Kind, e.State, e.PID, e.Restarts = m.now, m.name, k, m.status.State, max(e.PID, m.status.PID), m.status.Restarts
	m.events = append(m.events, e)
}

func (m *machine) become(s State) {
	if m.status.State != s {
		m.status.State, m.status.Since = s, m.now
	}
}

// begin starts the child, or the watch over one that is not ours.
func (m *machine) begin() {
	m.epoch++
	m.checking, m.misses, m.asked, m.healthy, m.readyAt, m.told = false, 0, "", false, time.Time{}, m.now
	m.status.Next, m.status.Waits, m.status.Adopted = time.Time{}, "", false
	if m.remote {
		m.become(Away)
		m.due, m.deadline = m.now.Add(m.spread(remoteEvery)), time.Time{}
		m.do(doDial)
		return
	}
	m.run = m.epoch
	m.become(Starting)
	m.limit = m.start
	m.due, m.deadline = time.Time{}, m.now.Add(m.limit)
	m.do(doStart)
}

// spread is this child's part of a period: so 256 children don't all do something at once.
func (m *machine) spread(d time.Duration) time.Duration {
	return d * time.Duration(m.index+1) / time.Duration(max(1, m.of))
}

func (m *machine) launched(in launched) {
	if in.run != m.run {
		return
	}
	m.status.PID, m.status.Started, m.status.Adopted = in.pid, m.now, in.adopted
	m.young = m.now.Add(pollFor)
	if in.adopted {
		m.limit = lifecycle.SyncLimit // it was up before
		m.deadline = m.now.Add(m.limit)
		m.tell(EventAdopted, Event{Waits: in.note})
	} else {
		m.tell(EventStarted, Event{})
	}
	switch {
	case m.wanted == verbAbort:
		m.do(doKill)
	case m.wanted == verbStop || m.status.State == Stopping:
		m.terminate()
	case m.pausedWanted && in.adopted:
		m.become(Paused)
		m.do(doPause) // the kernel lets stopped children go on when their launcher is killed
		m.due, m.deadline = time.Time{}, time.Time{}
		m.tell(EventPaused, Event{})
	default:
		if m.pausedWanted { // what was paused has ended meanwhile
			m.pausedWanted = false
			m.do(doSave)
		}
		m.due = m.now.Add(m.poll())
	}
}

// poll is how soon a young child is asked again; with many children less often.
func (m *machine) poll() time.Duration {
	return min(m.period(), max(pollEvery, time.Duration(m.of)*time.Millisecond))
}

// period is checkEvery, or with many children longer: when all have something to do each waits for its turn,
// and to kill one that waits would make the others wait longer.
func (m *machine) period() time.Duration {
	return max(checkEvery, time.Duration(m.of)*4*time.Millisecond)
}

func (m *machine) tick() {
	if !m.deadline.IsZero() && !m.now.Before(m.deadline) {
		m.deadline = time.Time{}
		if m.status.State == Stopping {
			m.tell(EventLate, Event{})
		} else {
			m.tell(EventHung, Event{Waits: m.status.Waits})
			m.asked = Slow
		}
		m.do(doKill)
		return
	}
	if m.due.IsZero() || m.now.Before(m.due) {
		return
	}
	due := m.due
	m.due = time.Time{}
	switch m.status.State {
	case Backoff, Failed:
		m.status.Restarts++
		m.begin()
	case Remote, Away:
		m.due = m.now.Add(remoteEvery)
		m.do(doDial)
	case Starting, Running, Ready, Suspect:
		m.due = due.Add(m.period())
		if m.due.Before(m.now) {
			m.due = m.now.Add(m.period())
		}
		if !m.checking {
			m.checking, m.sentAt, m.lateness = true, m.now, m.now.Sub(due) > maxLate
			m.do(doCheck)
		}
	case Stopping, Stopped, Paused:
	}
}

// checked takes the answer to a health check.
func (m *machine) checked(a lifecycle.Answer) {
	m.checking = false
	late := m.lateness || m.now.Sub(m.sentAt) > m.period()+maxLate
	was := m.status.State
	moved := a.Waits != "" && a.Waits != m.status.Waits
	if moved || was != Starting {
		m.status.Waits = a.Waits
	}
	switch {
	case a.Alive:
		m.misses = 0
		m.alive(a)
	case was == Starting:
		m.starting(moved)
	case late:
	default:
		if m.misses++; m.misses >= maxMisses {
			m.tell(EventHung, Event{})
			m.asked = Hung
			m.do(doKill)
			m.due = time.Time{}
			return
		}
		m.become(Suspect)
		if was != Suspect {
			m.tell(EventSuspect, Event{})
		}
	}
	if m.status.State != Ready && m.status.State != Suspect && m.now.Before(m.young) {
		m.due = m.now.Add(m.poll())
	} else if was != m.status.State && (was == Starting || was == Running) {
		m.due = m.now.Add(m.spread(m.period()))
	}
}

// starting takes the answer of a process that is not up yet. One that says something new gets on, and gets the
// time for a start again: a journal is as long as it is.
func (m *machine) starting(moved bool) {
	if moved && !m.deadline.IsZero() {
		m.deadline = m.now.Add(m.limit)
	}
	if m.status.Restarts > 0 && m.status.Waits != "" && m.now.Sub(m.told) >= tellEvery {
		m.told = m.now
		m.tell(EventSlow, Event{Waits: m.status.Waits})
	}
}

// alive takes a healthy answer.
func (m *machine) alive(a lifecycle.Answer) {
	var down time.Duration
	if m.readyAt.IsZero() && !m.diedAt.IsZero() {
		down = m.now.Sub(m.diedAt)
	}
	was := m.status.State
	m.healthy = true
	if was == Starting {
		m.deadline = time.Time{}
		m.become(Running)
		m.tell(EventHealthy, Event{Down: down})
	}
	switch {
	case a.Ready && was != Ready:
		m.become(Ready)
		m.status.Failed = false
		if m.readyAt.IsZero() {
			m.readyAt = m.now
			m.status.Recovery = down
			m.tell(EventReady, Event{Down: down})
		} else {
			m.tell(EventReady, Event{})
		}
	case !a.Ready && was != Running:
		m.become(Running)
		if was == Ready {
			m.tell(EventUnready, Event{Waits: a.Waits})
		}
	}
}

// terminate asks the process to end.
func (m *machine) terminate() {
	m.become(Stopping)
	m.due, m.deadline = time.Time{}, m.now.Add(m.stop)
	m.tell(EventStopping, Event{})
	m.do(doTerm)
}

// exited decides what follows the end of a process.
func (m *machine) exited(x exit) {
	switch {
	case m.asked != "":
		x.cause = m.asked
	case x.cause == "" && m.wanted != "":
		x.cause = InOrder
	case x.cause == "":
		x.cause = Killed
	case x.cause == InOrder && m.wanted == "":
		x.cause = Exited
	}
	if m.asked == Slow {
		x.words += fmt.Sprintf(": no progress within %s", m.limit) + withWaits(m.status.Waits)
	}
	pid := m.status.PID
	m.status.LastExit, m.status.PID, m.status.Waits, m.status.Started = x.words, 0, "", time.Time{}
	m.due, m.deadline, m.checking = time.Time{}, time.Time{}, false
	m.diedAt = m.now
	restart := m.status.State == Stopping && m.wanted == ""
	m.become(Backoff)
	if m.pausedWanted {
		m.pausedWanted = false
		m.do(doSave)
	}
	if x.locked && m.wanted == "" {
		if x.adoptable { // of a launcher that ended while it started
			m.begin()
		} else {
			m.foreign(x.holder)
		}
		return
	}
	if m.wanted == "" {
		m.status.Causes[x.cause]++
	}
	m.tell(EventExited, Event{PID: pid, Cause: x.cause, Exit: x.words})
	switch {
	case m.wanted != "":
		m.become(Stopped)
		m.tell(EventStopped, Event{})
	case restart:
		m.status.Restarts++
		m.begin()
	default:
		m.again(x)
	}
}

// again counts an exit and sets the time of the next start.
func (m *machine) again(x exit) {
	innocent := x.cause.Innocent()
	switch {
	case !m.readyAt.IsZero():
		m.early = 0
		if m.diedAt.Sub(m.readyAt) > forgetAfter {
			m.failures = 0
		}
	case !innocent:
		m.early++
	}
	if innocent {
		m.failures = min(m.failures, 1)
	}
	m.failures++
	v := decide(m.failures, m.early)
	delay := v.delay
	if !v.failed && delay > 0 {
		delay = m.jitter(delay)
	}
	m.due = m.now.Add(delay)
	m.status.Next = m.due
	if v.failed {
		m.become(Failed)
		m.status.Failed = true
		m.tell(EventFailed, Event{Exit: x.words, Delay: delay})
		return
	}
	m.tell(EventDelayed, Event{Delay: delay})
}

// foreign watches a child whose directory somebody else has: it is never started nor killed.
func (m *machine) foreign(holder int) {
	m.epoch++
	m.misses = 0
	m.become(Away)
	m.status.PID, m.status.Waits = 0, "already running"
	if holder != 0 {
		m.status.Waits = fmt.Sprintf("already running as pid %d, not under this launcher", holder)
	}
	m.due, m.deadline = m.now.Add(remoteEvery), time.Time{}
	m.do(doDial)
}

func (m *machine) dialled(up bool) {
	switch {
	case up && m.status.State != Remote:
		m.become(Remote)
		m.tell(EventRemoteUp, Event{Waits: m.status.Waits})
	case !up && (m.status.State != Away || m.misses == 0):
		m.become(Away)
		m.misses = 1 // said once
		waits := m.status.Waits
		if !m.remote {
			waits += "; when that has ended: ./launcher reset " + m.name
		}
		m.tell(EventRemoteDown, Event{Waits: waits})
	}
}
