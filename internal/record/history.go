package record

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sort"

	"cutbank/internal/ledger"
)

// History is a whole events.jsonl in memory, without its clocks, to be looked at at any of its moments.
type History struct {
	Header
	Taken []*Taken // the snapshots that became complete, in that order

	events []Event
	at     []Time // of the event, or of one before it that is later: of two branches' clocks one may be ahead
}

// Load reads a record. Error: what is wrong with it, and in which line.
func Load(path string) (*History, error) {
	h := &History{}
	names, words := map[string]string{}, map[string]string{} // one string for all events
	for _, kind := range kinds() {
		words[kind] = kind
	}
	var books *Books
	err := ReadFile(path, func(held Header) error {
		if n := len(held.Branches); n < 2 || n > MaxBranches || held.Total == 0 {
			return fmt.Errorf("names %d branches with a total of %d: a record is of 2 to %d branches with money", n, held.Total, MaxBranches)
		}
		h.Header, books = held, NewBooks(held.Branches)
		for _, name := range held.Branches {
			names[name] = name
		}
		return nil
	}, func(e *Event) error {
		var ok, known, with bool
		branch, kind, peer := e.Branch, e.Kind, e.Peer
		e.Branch, ok = names[branch]
		e.Kind, known = words[kind]
		e.Peer, with = names[peer]
		item := kind == Send || kind == Receive || kind == MarkerSent || kind == MarkerReceived
		switch {
		case !ok:
			return fmt.Errorf("is of the branch %q, which the first line does not name", branch)
		case !known:
			return fmt.Errorf("%q is no kind of event that this program knows", kind)
		case item && (!with || e.Peer == e.Branch):
			return fmt.Errorf("is between %q and %q, which the first line does not name as two branches", branch, peer)
		case e.At <= 0:
			return errors.New("has no time")
		}
		e.Clock = nil
		last := e.At
		if n := len(h.at); n > 0 {
			last = max(last, h.at[n-1])
		}
		h.events, h.at = append(h.events, *e), append(h.at, last)
		if t := books.Add(e); t != nil {
			t.Position = len(h.events)
			h.Taken = append(h.Taken, t)
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; --record makes one, %s in the bank's data directory", err, EventsFile)
	case err != nil:
		return nil, fmt.Errorf("%w; a record is written by --record", err)
	case len(h.events) == 0:
		return nil, fmt.Errorf("%s: has no events: was a bank recorded in it?", path)
	}
	return h, nil
}

func kinds() []string {
	return []string{Send, Receive, Recorded, MarkerSent, MarkerReceived, Start, Recovered, Crash, Paused, Resumed, Gap}
}

// Len is the number of events.
func (h *History) Len() int { return len(h.events) }

// Event is one of them, from 0; it may not be changed.
func (h *History) Event(i int) *Event { return &h.events[i] }

// Until is how many events have happened up to and at a time.
func (h *History) Until(t Time) int {
	return sort.Search(len(h.at), func(i int) bool { return h.at[i] > t })
}

// Began and Ended are the times of the first and of the last event.
func (h *History) Began() Time { return h.at[0] }

// Ended is the time of the last event.
func (h *History) Ended() Time { return h.at[len(h.at)-1] }

// Account is a branch, as its events so far tell.
type Account struct {
	Kind     string // of its last Start, Recovered, Crash, Paused or Resumed; empty: none was seen
	Since    Time   // of that
	Balance  uint64
	Starts   uint64
	Restarts int // of those, after the first one that the record saw
	LastExit string
}

// Flow is what has gone over a channel so far, from the beginning of the record.
type Flow struct {
	SentCount, SentMoney, ReceivedCount, ReceivedMoney uint64
	MarkersSent, MarkersReceived                       uint64

	Gap bool // events of an end are missing: until the next marker has come what is on its way is not known
}

// Books are what the events so far have made of a bank. Branches are named by their index.
type Books struct {
	Accounts []Account
	Flows    []Flow // of the channel from src to dst at src*len(Accounts)+dst
	Open     map[uint64]*Taken

	index map[string]int
}

// Taken is a snapshot, as the events tell it.
type Taken struct {
	ID        uint64
	Initiator string
	Began     Time // the first recording
	Ended     Time // the last marker
	Position  int  // events of the record up to its end
	Parts     []Part
	Channels  []State // as Books.Flows

	markers int
	ahead   []Flow // of each channel, as it was when the marker was sent; until the snapshot is complete
}

// Part is a branch in a snapshot.
type Part struct {
	Recorded, Complete Time // 0: not yet
	Balance            uint64
	Starts             uint64 // of the branch, so far
	FirstFrom          string // whose marker came first; empty at an initiator

	markers int
}

// State is a channel in a snapshot: what was in transit, and the transfers before it at both ends.
type State struct {
	Money, Count, Sent, Received uint64

	closed bool // its marker has come
}

// NewBooks are those of a bank of which nothing is known yet.
func NewBooks(names []string) *Books {
	b := &Books{
		Accounts: make([]Account, len(names)), Flows: make([]Flow, len(names)*len(names)),
		Open: map[uint64]*Taken{}, index: map[string]int{},
	}
	for i, name := range names {
		b.index[name] = i
	}
	return b
}

func (b *Books) channel(src, dst int) int { return src*len(b.Accounts) + dst }

// Flow is that of a channel.
func (b *Books) Flow(src, dst int) *Flow { return &b.Flows[b.channel(src, dst)] }

// Channel is the state of one.
func (t *Taken) Channel(src, dst int) *State { return &t.Channels[src*len(t.Parts)+dst] }

// Add takes the next event and returns the snapshot that it has completed, or nil.
func (b *Books) Add(e *Event) *Taken {
	i := b.index[e.Branch]
	a := &b.Accounts[i]
	a.Balance = e.Balance
	switch e.Kind {
	case Start, Recovered:
		if a.Starts++; a.Starts > 1 || a.LastExit != "" {
			a.Restarts++
		}
		a.Kind, a.Since = e.Kind, e.At
	case Crash:
		a.Kind, a.Since, a.LastExit = e.Kind, e.At, e.Text
	case Paused, Resumed:
		a.Kind, a.Since = e.Kind, e.At
	case Gap:
		clear(b.Open) // what is missing may belong to any of them: no verdict
		for j := range b.Accounts {
			b.Flow(i, j).Gap, b.Flow(j, i).Gap = true, true
		}
	case Send, Receive, MarkerSent, MarkerReceived:
		return b.item(e, i)
	case Recorded:
		t := b.open(e)
		t.Parts[i].Recorded, t.Parts[i].Balance, t.Parts[i].Starts = e.At, e.Balance, a.Starts
		for j := range b.Accounts {
			out, in := b.channel(i, j), b.channel(j, i)
			t.Channels[out].Sent, t.Channels[in].Received = b.Flows[out].SentCount, b.Flows[in].ReceivedCount
		}
	}
	return nil
}

// maxOpen bounds the snapshots that are not complete: when so many are in progress, a branch starts no more.
const maxOpen = ledger.MaxInProgress

// open is the snapshot of an event, which may be its first.
func (b *Books) open(e *Event) *Taken {
	t := b.Open[e.SnapshotID]
	if t == nil {
		if len(b.Open) >= maxOpen { // whose markers are in no journal here are never complete
			delete(b.Open, slices.Min(slices.Collect(maps.Keys(b.Open))))
		}
		t = &Taken{ID: e.SnapshotID, Initiator: e.Branch, Began: e.At, Parts: make([]Part, len(b.Accounts)), Channels: make([]State, len(b.Flows)), ahead: make([]Flow, len(b.Flows))}
		b.Open[e.SnapshotID] = t
	}
	return t
}

// item is what an event of a channel does, at the branch with index i.
func (b *Books) item(e *Event, i int) *Taken {
	peer := b.index[e.Peer]
	out, in := b.channel(i, peer), b.channel(peer, i)
	switch e.Kind {
	case Send:
		b.Flows[out].SentCount++
		b.Flows[out].SentMoney += e.Money
	case MarkerSent:
		b.Flows[out].MarkersSent++
		if t := b.Open[e.SnapshotID]; t != nil {
			t.ahead[out] = b.Flows[out]
		}
	case Receive:
		b.Flows[in].ReceivedCount++
		b.Flows[in].ReceivedMoney += e.Money
		for _, t := range b.Open {
			if s := &t.Channels[in]; t.Parts[i].Recorded != 0 && !s.closed {
				s.Money += e.Money
				s.Count++
			}
		}
	case MarkerReceived:
		b.Flows[in].MarkersReceived++
		t := b.open(e)
		if ahead := &t.ahead[in]; ahead.MarkersSent > 0 { // all of it has come, also what a gap hides
			f := &b.Flows[in]
			f.ReceivedCount, f.ReceivedMoney, f.MarkersReceived, f.Gap = ahead.SentCount, ahead.SentMoney, ahead.MarkersSent, false
		}
		p := &t.Parts[i]
		if p.Recorded == 0 && p.markers == 0 {
			p.FirstFrom = e.Peer
		}
		t.Channels[in].closed = true
		p.markers++
		if p.markers == len(b.Accounts)-1 {
			p.Complete = e.At
		}
		if t.markers++; t.markers == len(b.Flows)-len(b.Accounts) {
			t.Ended, t.ahead = e.At, nil
			delete(b.Open, t.ID)
			for j := range t.Parts {
				if t.Parts[j].Recorded == 0 {
					return nil // before the record began
				}
			}
			return t
		}
	}
	return nil
}
