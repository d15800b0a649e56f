package controller

import (
	"fmt"
	"strings"
	"time"
)

// Event is something that happened to the bank. Log lines, metrics and the dashboard are renderings
// of events.
type Event interface{ event() }

// Waiting is sent at the start, and again every fraction of a second until all branches are ready.
type Waiting struct {
	For     string // "branches", then "links"
	Ready   int    // branches, of Total
	Total   int
	Missing []Missing
}

// Missing is a branch that is waited for.
type Missing struct {
	Name, Addr string
	Reason     string
	For        time.Duration
}

// Opened is a bank whose branches all hold their shares now. Aside is where the plan of an earlier
// bank was moved, when there was one.
type Opened struct {
	BankID   string
	Total    uint64
	Branches int
	Keyed    bool
	Aside    string
	Restored *RestoredRef
}

// Resumed is a bank that was open before this controller came.
type Resumed struct {
	BankID         string
	Total          uint64
	Branches       int
	Keyed          bool
	LastSnapshotID uint64
}

// Ready is sent when the links of all branches are up for the first time.
type Ready struct{ FirstSnapshot, SnapshotInterval time.Duration }

// BranchUp is a branch that has proved itself and answers.
type BranchUp struct {
	Name, Addr  string
	Incarnation uint64
}

// BranchDown is a branch that no longer answers; it is dialled again until it does.
type BranchDown struct{ Name, Addr, Reason string }

// LinkCut is a link that a branch was asked to take down for a while.
type LinkCut struct {
	At, Peer string
	For      time.Duration
}

// SnapshotStarted is a snapshot that the initiator was asked for.
type SnapshotStarted struct {
	ID        uint64
	Initiator string
}

// SnapshotRefused is one that the initiator did not start.
type SnapshotRefused struct {
	ID                uint64
	Initiator, Reason string
}

// SnapshotComplete is one that all branches have answered; its record may be inconsistent.
type SnapshotComplete struct{ Record Record }

// SnapshotIncomplete is one that the controller gave up.
type SnapshotIncomplete struct {
	Record Record
	Reason string
}

// Stopped is the last event of a run that got ready.
type Stopped struct {
	Consistent, Inconsistent, Incomplete int
	Min, Median, Max                     time.Duration // of complete snapshots; the median of the last ones
	Last                                 *Record       // the last complete one, if any
	Paid, Received                       uint64        // transfers since this run began, as the branches' last answers count them
}

func (Waiting) event()            {}
func (Opened) event()             {}
func (Resumed) event()            {}
func (Ready) event()              {}
func (BranchUp) event()           {}
func (BranchDown) event()         {}
func (LinkCut) event()            {}
func (SnapshotStarted) event()    {}
func (SnapshotRefused) event()    {}
func (SnapshotComplete) event()   {}
func (SnapshotIncomplete) event() {}
func (Stopped) event()            {}

// String is the line that people see.
func (w Waiting) String() string {
	const shown = 3
	var missing []string
	for i, m := range w.Missing {
		if i == shown {
			missing = append(missing, fmt.Sprintf("and %d more", len(w.Missing)-shown))
			break
		}
		missing = append(missing, fmt.Sprintf("%s %s %s, %ds", m.Name, m.Addr, m.Reason, int(m.For.Seconds())))
	}
	line := fmt.Sprintf("waiting for %s %d/%d", w.For, w.Ready, w.Total)
	if len(missing) > 0 {
		line += " (" + strings.Join(missing, "; ") + ")"
	}
	return line
}
