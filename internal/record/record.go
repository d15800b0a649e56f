// Package record tells what happened in a bank, event by event, from the journals of its branches.
//
// A branch's journal is already the complete, durable and exactly-once list of what happened there, so
// nothing is recorded a second time while the bank runs: a Follower reads the journals of a data directory,
// while branches write to them or afterwards, and merges them into one order in which every receive comes
// after its send. Vector clocks are computed here: item n of a channel has one send and one receive, so the
// wire carries nothing for them. On top of it are events.jsonl (File), what ShiViz reads, and the
// space-time diagram of a snapshot (Cut).
//
// Not here: who runs the bank, how anything is shown on a page.
//
// Invariant: the events of a branch are passed on in its own order, each once; a receive is never passed on
// before its send, unless that send is in no journal any more.
package record

import (
	"encoding/json"
	"fmt"
	"time"

	"cutbank/internal/ledger"
)

// Kinds of events. A Note has one of the others.
const (
	Send           = "send"
	Receive        = "receive"
	Recorded       = "record"
	MarkerSent     = "marker_sent"
	MarkerReceived = "marker_received"
	Start          = "start"
	Recovered      = "recovered"
	Crash          = "crash"   // a Note
	Paused         = "paused"  // a Note
	Resumed        = "resumed" // a Note
	Gap            = "gap"     // events before this one were removed before they were read
)

// Event is one event of a branch: a line of events.jsonl.
type Event struct {
	At         Time   `json:"at"`
	Branch     string `json:"branch"`
	Kind       string `json:"kind"`
	Peer       string `json:"peer,omitempty"`
	Money      uint64 `json:"money,omitempty"`
	N          uint64 `json:"n,omitempty"` // number of the item on its channel, transfers and markers counted
	SnapshotID uint64 `json:"snapshot_id,omitempty"`
	Balance    uint64 `json:"balance"` // of the branch, afterwards
	Text       string `json:"text,omitempty"`
	Commit     uint64 `json:"commit,omitempty"` // of the branch's journal that holds the event
	Clock      Clock  `json:"clock,omitempty"`
}

// Time is microseconds since 1970, written as RFC 3339.
type Time int64

const timeForm = "2006-01-02T15:04:05.000000Z07:00"

// MarshalText writes it in UTC.
func (t Time) MarshalText() ([]byte, error) {
	return time.UnixMicro(int64(t)).UTC().AppendFormat(nil, timeForm), nil
}

// UnmarshalText reads it.
func (t *Time) UnmarshalText(b []byte) error {
	at, err := time.Parse(time.RFC3339Nano, string(b))
	*t = Time(at.UnixMicro())
	return err
}

// Clock is a vector clock: for each branch, how many of its events are known. Its own counts from 1.
type Clock map[string]uint64

// Src and Dst are the ends of the channel of an item.
func (e *Event) Src() string {
	if e.Kind == Send || e.Kind == MarkerSent {
		return e.Branch
	}
	return e.Peer
}

// Dst is the receiving end.
func (e *Event) Dst() string {
	if e.Kind == Send || e.Kind == MarkerSent {
		return e.Peer
	}
	return e.Branch
}

// String is the event in words.
func (e *Event) String() string {
	switch e.Kind {
	case Send:
		return fmt.Sprintf("send %d to %s (%d)", e.Money, e.Peer, e.N)
	case Receive:
		return fmt.Sprintf("receive %d from %s (%d)", e.Money, e.Peer, e.N)
	case Recorded:
		return fmt.Sprintf("record %d for snapshot %d", e.Balance, e.SnapshotID)
	case MarkerSent:
		return fmt.Sprintf("marker of snapshot %d to %s (%d)", e.SnapshotID, e.Peer, e.N)
	case MarkerReceived:
		return fmt.Sprintf("marker of snapshot %d from %s (%d)", e.SnapshotID, e.Peer, e.N)
	}
	if e.Text != "" {
		return e.Kind + ": " + e.Text
	}
	return e.Kind
}

// kindOf is the kind of a ledger's event.
func kindOf(e ledger.Event, incarnation uint64) string {
	switch e.Kind {
	case ledger.Sent:
		return Send
	case ledger.Received:
		return Receive
	case ledger.Recorded:
		return Recorded
	case ledger.MarkerSent:
		return MarkerSent
	case ledger.MarkerReceived:
		return MarkerReceived
	case ledger.Started:
		if incarnation > 1 {
			return Recovered
		}
	}
	return Start
}

// Schema is the schema of events.jsonl; the number changes only when old readers would break.
const Schema = "cutbank.events/1"

// Header is the first line of events.jsonl.
type Header struct {
	Schema   string   `json:"schema"`
	Total    uint64   `json:"total"`
	Branches []string `json:"branches"`
}

func (h Header) line() []byte {
	h.Schema = Schema
	line, err := json.Marshal(h)
	if err != nil {
		panic(err) // numbers and names
	}
	return append(line, '\n')
}
