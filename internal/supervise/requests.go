package supervise

import (
	"fmt"
	"time"
)

// verb of a request.
type verb string

const (
	verbKill    verb = "kill"
	verbStrike  verb = "strike"
	verbHang    verb = "hang"
	verbPause   verb = "pause"
	verbResume  verb = "resume"
	verbRestart verb = "restart"
	verbReset   verb = "reset"
	verbStop    verb = "stop"
	verbAbort   verb = "abort"
)

// request does what a user asks for. Error: what can't be done in this state, and what can.
func (m *machine) request(v verb) error {
	s := m.status.State
	can := func(ok bool, hint string) error {
		if ok {
			m.epoch++
			m.checking = false
			return nil
		}
		return fmt.Errorf("%s can't be asked to %s: it is %s%s", m.name, v, s, hint)
	}
	elsewhere := s == Remote || s == Away
	switch v {
	case verbStop, verbAbort:
		m.shutdown(v)
		return nil
	case verbKill, verbStrike, verbHang:
		if err := can(m.status.PID != 0, ""); err != nil {
			return err
		}
		if v == verbHang {
			m.do(doPause) // and nobody is told
			return nil
		}
		m.asked = Asked
		if v == verbStrike {
			m.asked = Struck
		}
		m.do(doKill)
	case verbPause:
		if err := can(m.status.PID != 0 && s != Paused && s != Stopping, ""); err != nil {
			return err
		}
		m.pausedWanted = true
		m.due, m.deadline = time.Time{}, time.Time{}
		m.become(Paused)
		m.do(doSave)
		m.do(doPause)
		m.tell(EventPaused, Event{})
	case verbResume:
		if err := can(s == Paused, ""); err != nil {
			return err
		}
		m.pausedWanted, m.misses = false, 0
		if m.healthy {
			m.become(Running)
		} else {
			m.become(Starting)
			m.deadline = m.now.Add(m.limit)
		}
		m.due, m.young = m.now.Add(pollEvery), m.now.Add(pollFor)
		m.do(doSave)
		m.do(doResume)
		m.tell(EventResumed, Event{})
	case verbRestart, verbReset:
		if err := can(!elsewhere || !m.remote, " on another machine"); err != nil {
			return err
		}
		m.failures, m.early, m.status.Failed = 0, 0, false
		switch {
		case m.status.PID == 0 && s != Starting:
			m.status.Restarts++
			m.begin()
		case v == verbRestart && s != Stopping && m.status.PID != 0:
			m.asked = Asked
			m.terminate()
		}
	}
	return nil
}

// shutdown ends the child for good. Abort does not ask first.
func (m *machine) shutdown(v verb) {
	m.epoch++
	m.checking = false
	m.wanted = v
	switch {
	case m.status.PID != 0 && v == verbAbort:
		m.become(Stopping)
		m.due, m.deadline = time.Time{}, time.Time{}
		m.do(doKill)
	case m.status.PID != 0:
		m.terminate()
	case m.status.State == Starting:
		m.due, m.deadline = time.Time{}, time.Time{} // until its pid is known
	default:
		m.due, m.deadline = time.Time{}, time.Time{}
		m.become(Stopped)
		m.tell(EventStopped, Event{})
	}
}
