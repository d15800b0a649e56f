package supervise

import (
	"fmt"
	"strings"
	"time"
)

// State of a child, as it was last seen.
type State string

// States of a child. The first five and Paused have a process.
const (
	Starting State = "starting" // until the first healthy answer
	Running  State = "running"  // healthy, not ready yet
	Ready    State = "ready"
	Suspect  State = "suspect" // a health check was missed
	Stopping State = "stopping"
	Paused   State = "paused" // asked for: not taken for a hang
	Backoff  State = "backoff"
	Failed   State = "failed" // the budget is used up; tried again every minute
	Stopped  State = "stopped"
	Remote   State = "remote" // not ours to start, and it answers
	Away     State = "away"   // not ours to start, and it does not answer
)

// Kind of an Event.
type Kind string

// Kinds of events.
const (
	EventStarted    Kind = "started"
	EventAdopted    Kind = "adopted"   // a process that an earlier launcher had started
	EventSlow       Kind = "slow"      // a process that was started again is not up for long; Waits says why
	EventHealthy    Kind = "healthy"   // the first healthy answer of a process
	EventReady      Kind = "ready"     // Down: since the exit of the process before, at a process's first
	EventUnready    Kind = "unready"   // it lost what it needs; Waits says what
	EventSuspect    Kind = "suspect"   // a check was missed
	EventHung       Kind = "hung"      // it is killed for it
	EventStopping   Kind = "stopping"  // it was asked to end
	EventLate       Kind = "late"      // it did not end in time and is killed
	EventExited     Kind = "exited"    // Cause, Exit
	EventDelayed    Kind = "delayed"   // Delay: until the next start
	EventFailed     Kind = "failed"    // Exit: why
	EventStopped    Kind = "stopped"   // for good
	EventPaused     Kind = "paused"    // at a user's request
	EventResumed    Kind = "resumed"   // at a user's request
	EventRemoteUp   Kind = "remote up" // answers TCP
	EventRemoteDown Kind = "remote down"
)

// Cause of an exit: few enough to be a label.
type Cause string

// Causes of exits.
const (
	Killed  Cause = "killed" // by a signal of somebody else
	Exited  Cause = "exited" // by itself
	Hung    Cause = "hung"
	Slow    Cause = "slow"  // not up before the deadline of a start
	Asked   Cause = "asked" // a user's kill or restart
	Struck  Cause = "killed by chaos"
	InOrder Cause = "in order"
)

// Innocent tells that the process was killed for no fault of its own.
func (c Cause) Innocent() bool { return c == Killed || c == Asked || c == Struck }

// Event is something that happened to a child. Log line, status, metric and page are renderings of it.
type Event struct {
	At       time.Time     `json:"at"`
	Child    string        `json:"child"`
	Kind     Kind          `json:"kind"`
	State    State         `json:"state"` // after it
	PID      int           `json:"pid,omitempty"`
	Cause    Cause         `json:"cause,omitempty"`
	Exit     string        `json:"exit,omitempty"` // how the process ended, in words
	Delay    time.Duration `json:"delay_ns,omitempty"`
	Restarts int           `json:"restarts"` // starts after the first
	Down     time.Duration `json:"down_ns,omitempty"`
	Waits    string        `json:"waits,omitempty"`
}

// String is the line for people.
func (e Event) String() string {
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	switch e.Kind {
	case EventStarted:
		return fmt.Sprintf("%s is started (pid %d)", e.Child, e.PID)
	case EventAdopted:
		return fmt.Sprintf("%s is adopted (pid %d)", e.Child, e.PID) + withWaits(e.Waits)
	case EventSlow:
		return fmt.Sprintf("%s (pid %d) waits for %s", e.Child, e.PID, e.Waits)
	case EventHealthy:
		return fmt.Sprintf("%s is healthy%s (pid %d)", e.Child, after(e.Down), e.PID)
	case EventReady:
		if e.Down > 0 {
			return fmt.Sprintf("%s is back after %s (pid %d)", e.Child, ms(e.Down), e.PID)
		}
		return fmt.Sprintf("%s is ready (pid %d)", e.Child, e.PID)
	case EventUnready:
		return fmt.Sprintf("%s (pid %d) is not ready", e.Child, e.PID) + withWaits(e.Waits)
	case EventSuspect:
		return fmt.Sprintf("%s (pid %d) does not answer", e.Child, e.PID)
	case EventHung:
		return fmt.Sprintf("%s (pid %d) hangs: killing it", e.Child, e.PID)
	case EventLate:
		return fmt.Sprintf("%s (pid %d) does not end when asked to: killing it", e.Child, e.PID)
	case EventExited:
		return fmt.Sprintf("%s ended (pid %d, %s)", e.Child, e.PID, e.Exit)
	case EventDelayed:
		return fmt.Sprintf("%s is started again in %s", e.Child, ms(e.Delay))
	case EventFailed:
		return fmt.Sprintf("%s failed: %s; trying again every %s, or at once with: launcher reset %s", e.Child, e.Exit, e.Delay, e.Child)
	case EventRemoteUp:
		return e.Child + " answers; it is watched, not started" + withWaits(e.Waits)
	case EventRemoteDown:
		return e.Child + " does not answer; it is waited for, not started" + withWaits(e.Waits)
	case EventStopping, EventStopped, EventPaused, EventResumed:
	}
	return fmt.Sprintf("%s is %s", e.Child, e.Kind) + map[bool]string{true: fmt.Sprintf(" (pid %d)", e.PID)}[e.PID != 0]
}

func withWaits(what string) string {
	if what == "" {
		return ""
	}
	return ": " + what
}

func after(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return " after " + d.Round(time.Millisecond).String()
}

// Status is a child as it is now.
type Status struct {
	Name     string        `json:"name"`
	State    State         `json:"state"`
	Since    time.Time     `json:"since"`            // of the state
	PID      int           `json:"pid"`              // 0: no process
	Started  time.Time     `json:"started,omitzero"` // when the process was started, or adopted
	Adopted  bool          `json:"adopted,omitempty"`
	Paused   bool          `json:"paused,omitempty"` // asked for
	Restarts int           `json:"restarts"`
	Causes   map[Cause]int `json:"causes,omitempty"` // exits, other than in order
	LastExit string        `json:"last_exit,omitempty"`
	Failed   bool          `json:"failed,omitempty"` // budget used up, also while it is tried again
	Next     time.Time     `json:"next,omitzero"`    // of a start, in Backoff and Failed
	Recovery time.Duration `json:"recovery_ns,omitempty"`
	Waits    string        `json:"waits,omitempty"`
}

// Why is the state in words: what is waited for, or how the last process ended.
func (s Status) Why() string {
	var parts []string
	switch {
	case s.Waits == "", s.State == Ready:
	case s.State == Remote, s.State == Away:
		parts = append(parts, s.Waits)
	default:
		parts = append(parts, "waits for "+s.Waits)
	}
	if s.LastExit != "" {
		parts = append(parts, "last: "+s.LastExit)
	}
	return strings.Join(parts, "; ")
}
