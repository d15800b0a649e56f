package record

import (
	"cmp"
	"slices"
)

// Cut collects the space-time diagram of one snapshot from events in merged order: those between the first
// recording and the last marker, some before and after, and the sends of all messages that cross the cut.
//
// A message crosses when it is received after the receiver recorded and before the marker of its channel:
// on a FIFO channel it was sent before the sender recorded.
type Cut struct {
	id       uint64
	limit    int
	branches []string

	recorded map[string]bool
	markers  map[channel]bool // channels whose marker came
	before   []Drawn          // the last ones before the first recording
	during   []Drawn
	flying   map[channel][]Drawn // sends that were not received, the last ones of each channel
	seq      int
	left     uint64
	after    int
}

type channel struct{ src, dst string }

// Drawn is an event of the diagram.
type Drawn struct {
	Event
	Crosses bool // counted in the state of its channel

	seq int
}

// Limits of a diagram.
const (
	DefaultDrawn = 1500 // events besides markers and recordings
	drawnBefore  = 120
	drawnAfter   = 60
	keptFlying   = 256 // of a channel
)

// NewCut collects the cut of a snapshot. Limit bounds the events besides markers and recordings.
func NewCut(id uint64, branches []string, limit int) *Cut {
	return &Cut{
		id: id, limit: limit, branches: branches,
		recorded: map[string]bool{}, markers: map[channel]bool{}, flying: map[channel][]Drawn{},
	}
}

// Add takes the next event. Done tells that nothing more is needed.
func (c *Cut) Add(e *Event) (done bool) {
	if c.whole() {
		if c.after++; c.after > drawnAfter {
			return true
		}
	}
	c.seq++
	d := Drawn{Event: *e, seq: c.seq}
	d.Clock = nil
	ch := channel{e.Src(), e.Dst()}
	switch e.Kind {
	case Recorded:
		if e.SnapshotID == c.id {
			c.recorded[e.Branch] = true
		}
	case MarkerReceived:
		if e.SnapshotID == c.id {
			c.markers[ch] = true
		}
	case Send:
		list := append(c.flying[ch], d)
		c.flying[ch] = list[max(0, len(list)-keptFlying):]
	case Receive:
		d.Crosses = c.recorded[e.Branch] && !c.markers[ch]
		if send := c.land(ch, e.N); d.Crosses && send != nil && c.room() {
			send.Crosses = true
			c.add(*send)
		}
	}
	c.add(d)
	return false
}

// land takes the send of a message that arrives off the list of those on their way.
func (c *Cut) land(ch channel, n uint64) *Drawn {
	list := c.flying[ch]
	for len(list) > 0 && list[0].N < n {
		list = list[1:]
	}
	c.flying[ch] = list
	if len(list) == 0 || list[0].N != n {
		return nil
	}
	c.flying[ch] = list[1:]
	return &list[0]
}

func (c *Cut) whole() bool { return len(c.markers) == len(c.branches)*(len(c.branches)-1) }

func (c *Cut) room() bool { return len(c.during) < c.limit }

func (c *Cut) add(d Drawn) {
	needed := d.SnapshotID == c.id
	switch {
	case len(c.recorded) == 0:
		c.before = append(c.before, d)
		if len(c.before) >= 2*drawnBefore { // drops half at a time
			c.before = slices.Clone(c.before[drawnBefore:])
		}
	case needed || c.room():
		c.during = append(c.during, d)
	default:
		c.left++
	}
}

// Result is the diagram, in an order in which every receive comes after its send; how many events between
// the first recording and the last marker it leaves out; and the branches whose recording was not among
// the events.
func (c *Cut) Result() (events []Drawn, left uint64, missing []string) {
	for _, b := range c.branches {
		if !c.recorded[b] {
			missing = append(missing, b)
		}
	}
	if len(c.recorded) == 0 {
		return nil, 0, missing
	}
	events = append(slices.Clone(c.before[max(0, len(c.before)-drawnBefore):]), c.during...)
	// A crossing send may be there twice: as it was, and again with its receive.
	slices.SortStableFunc(events, func(a, b Drawn) int { return cmp.Compare(a.seq, b.seq) })
	kept := events[:0]
	for _, d := range events {
		if n := len(kept); n > 0 && kept[n-1].seq == d.seq {
			kept[n-1].Crosses = kept[n-1].Crosses || d.Crosses
			continue
		}
		kept = append(kept, d)
	}
	return kept, c.left, missing
}
