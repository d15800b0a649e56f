// Package rules names the rules that keep the books right, each of which can be switched off: by
// --break, to see what it is for, and as a mutant that the simulator has to find.
//
// A bank has one rule switched off for all its life, or none (its plan says which). The switches
// themselves stand where the rules do; none of them is asked per transfer.
package rules

import (
	"fmt"
	"strings"
)

// Rule is one that a bank does without. The zero value is none: all rules hold.
type Rule uint8

// The rules, by what happens without them. Table has a sentence on each.
const (
	None Rule = iota
	MarkerOvertaken
	NoChannelState
	SendBeforeDurable
	AckBeforeDurable
	AnswerBeforeDurable
	NoDedupe
	PositionPerConnection
	StaleReader
	RecordingNotJournaled
	MarkersInSeparateBatch
	NoCountFence
	NoHashFence
	NoBarrier
	CheckpointWithoutOutbox
	NoFsync
	NoDirectoryFsync
	FsyncErrorIgnored
	end
)

// Entry is a line of the table.
type Entry struct {
	Name string
	Text string // what happens without the rule, and when it shows
}

// Entry is the rule's line of the table; None has none.
func (r Rule) Entry() Entry {
	switch r {
	case MarkerOvertaken:
		return Entry{"marker-overtaken", "A transfer goes out before the marker that was due first: " +
			"it is in no recorded balance of its sender and yet counted by its receiver. Shows within seconds."}
	case NoChannelState:
		return Entry{"no-channel-state", "Only balances are recorded and not what is on the channels: " +
			"money in transit is missing. Shows within seconds."}
	case SendBeforeDurable:
		return Entry{"send-before-durable", "Items leave before they are on the disk: a sender that crashes " +
			"forgets what its peer has received. Shows when a branch is killed just then: its peers refuse it."}
	case AckBeforeDurable:
		return Entry{"ack-before-durable", "Receipt is acknowledged before it is on the disk: after a crash " +
			"neither side has the money. Shows when a branch is killed just then: its peers refuse it."}
	case AnswerBeforeDurable:
		return Entry{"answer-before-durable", "A branch tells its part of a snapshot before it is on the disk: " +
			"after a crash it records another one. Shows when a branch is killed just then."}
	case NoDedupe:
		return Entry{"no-dedupe", "After a reconnect all that is unacknowledged is sent again and taken as new: " +
			"money is doubled. Shows when a link breaks while money is on its way: the peers disagree and refuse."}
	case PositionPerConnection:
		return Entry{"position-per-connection", "A sender goes on where the last connection was, not where the " +
			"receiver is: what that connection lost is lost. Shows when a link breaks while money is on its way."}
	case StaleReader:
		return Entry{"stale-reader", "What a replaced connection had buffered is still taken, and then comes " +
			"again. Shows when a link is replaced while it is busy: rarely by hand, soon in the simulator."}
	case RecordingNotJournaled:
		return Entry{"recording-not-journaled", "A recording is only in memory: after a crash the branch records " +
			"again, later than its markers said. Shows when a branch is killed during a snapshot."}
	case MarkersInSeparateBatch:
		return Entry{"markers-in-separate-batch", "A recording and its markers are two commits: a crash between " +
			"them loses the markers, and that snapshot never completes. Shows when a branch is killed just then."}
	case NoCountFence:
		return Entry{"no-count-fence", "Peers do not compare their counts: an old data directory goes on, and what " +
			"it forgot is lost or doubled. Shows when a branch's directory is replaced by an older copy."}
	case NoHashFence:
		return Entry{"no-hash-fence", "Peers do not compare contents: two histories of the same length pass for " +
			"one. Shows when an old directory is put in place, pays, and is replaced by the newer one."}
	case NoBarrier:
		return Entry{"no-barrier", "A branch pays before it has compared its books with all its peers: an old " +
			"directory acts before it is found out. Shows when one is put in place while some peer is down."}
	case CheckpointWithoutOutbox:
		return Entry{"checkpoint-without-outbox", "A checkpoint leaves out what is not acknowledged yet: a restart " +
			"from it loses that. Shows when a branch is killed after a checkpoint (some million transfers)."}
	case NoFsync:
		return Entry{"no-fsync", "Nothing is synced: the kernel has the bytes, the disk has not. A kill -9 does not " +
			"show it, power loss does: the simulator."}
	case NoDirectoryFsync:
		return Entry{"no-directory-fsync", "File names are not synced: after power loss a whole segment or checkpoint " +
			"may be gone. A kill -9 does not show it: the simulator does."}
	case FsyncErrorIgnored:
		return Entry{"fsync-error-ignored", "A failed sync counts as done: what it covered never reaches the disk. " +
			"Needs a failing disk and power loss: the simulator."}
	case None, end:
	}
	return Entry{"none", "All rules hold."}
}

func (r Rule) String() string { return r.Entry().Name }

// All lists the rules in the order of the table.
func All() []Rule {
	list := make([]Rule, 0, end-1)
	for r := None + 1; r < end; r++ {
		list = append(list, r)
	}
	return list
}

// Parse reads a name; "" is None. Error: no such rule, with the table.
func Parse(name string) (Rule, error) {
	if name == "" {
		return None, nil
	}
	for _, r := range All() {
		if r.String() == name {
			return r, nil
		}
	}
	return None, fmt.Errorf("no rule is called %q; the rules are\n%s", name, Table())
}

// Dir is the data directory of a bank without the rule, beside that of the bank with all of them.
func (r Rule) Dir(dir string) string {
	suffix := "-broken-" + r.String()
	if r == None || strings.HasSuffix(dir, suffix) {
		return dir
	}
	return strings.TrimRight(dir, "/") + suffix
}

// Mark stands before every line of a bank without the rule; "" for None.
func (r Rule) Mark() string {
	if r == None {
		return ""
	}
	return "[rule off: " + r.String() + "] "
}

// Table is a line for each rule, for people.
func Table() string {
	var b strings.Builder
	for _, r := range All() {
		fmt.Fprintf(&b, "  %-26s %s\n", r, r.Entry().Text)
	}
	return b.String()
}
