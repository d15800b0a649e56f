package branch

import (
	"math/bits"
	"time"

	"cutbank/internal/engine"
	"cutbank/internal/ledger"
)

// The window of a channel is what may be unacknowledged on it before transfers wait. Under load all
// windows are full, and what a marker has to pass is what is in them: the window is the latency. So it
// is fitted to the time that transfers take from decision to acknowledgement. While they take longer
// than paceTime and four syncs (at either end one that is under way, and one's own), it shrinks in
// proportion; while they take less and windows were full, it grows by a step, so that branches which
// share a machine come to equal windows. A slow disk makes it larger, many branches on one disk smaller.
const (
	firstWindow = 4096
	leastBranch = 2048 // all channels of a branch together: below it a batch does not carry its own cost
	stepBranch  = 512  // what all of them grow by
	mostBranch  = 1 << 18

	paceTime    = 2 * time.Millisecond
	pacePeriod  = 10 * time.Millisecond // between two changes, or longer when transfers take longer
	paceSamples = 4                     // fewer say nothing

	sampleEvery = time.Millisecond
	maxSampled  = 64 // transfers whose time is being taken
)

// latencyBuckets is the length of the histogram: eight buckets an octave, up to a minute.
const latencyBuckets = 8 * 24

// latencyBucket is where the histogram of transfer times in a Status counts a time of so many
// microseconds; LatencyBound is the inverse: the time below which all of a bucket lie.
func latencyBucket(us uint64) int {
	if us < 16 {
		return int(us)
	}
	octave := bits.Len64(us) - 4                           // us>>octave is 8 to 15
	return min(8*octave+int(us>>octave), latencyBuckets-1) //nolint:gosec // small
}

// LatencyBound is the first time in microseconds that lies above a bucket.
func LatencyBound(bucket int) uint64 {
	if bucket < 16 {
		return uint64(bucket) + 1 //nolint:gosec // small
	}
	octave := bucket/8 - 1
	return uint64(bucket-8*octave+1) << octave //nolint:gosec // small
}

// pace takes the times of a sample of the transfers and fits the window to them.
type pace struct {
	window int
	full   bool // a window was full since the last change

	sampled   time.Time
	under     []sample // in the order of their decisions
	histogram [latencyBuckets]uint64
	sum       time.Duration // of the times since the last change
	count     int
	changed   time.Time
	sync      time.Duration // running mean
}

type sample struct {
	peer    int
	number  uint64 // of the item
	decided time.Time
}

// decided begins to time a transfer that was made just now, when a sample is due.
func (p *pace) decided(peer int, number uint64, now time.Time) {
	if now.Sub(p.sampled) >= sampleEvery && len(p.under) < maxSampled {
		p.sampled = now
		p.under = append(p.under, sample{peer, number, now})
	}
}

// acknowledged ends the times of those that are, and changes the window when that is due.
func (p *pace) acknowledged(l *ledger.Ledger, now time.Time) {
	kept := p.under[:0]
	for _, s := range p.under {
		if l.Acknowledged(s.peer) < s.number {
			kept = append(kept, s)
			continue
		}
		took := now.Sub(s.decided)
		p.sum += took
		p.count++
		p.histogram[latencyBucket(uint64(max(0, took.Microseconds())))]++
	}
	p.under = kept
	if p.count >= paceSamples && now.Sub(p.changed) >= max(pacePeriod, p.sum/time.Duration(p.count)) {
		p.change(len(l.Plan().Names)-1, now)
	}
}

// change fits the window: down by half at most, and up only when it held transfers back.
func (p *pace) change(peers int, now time.Time) {
	mean, want := p.sum/time.Duration(p.count), paceTime+4*p.sync
	switch {
	case mean > want:
		p.window = int(float64(p.window) * max(float64(want)/float64(mean), 0.5))
	case p.full:
		p.window += max(1, stepBranch/peers)
	}
	p.window = p.bound(p.window, peers)
	p.sum, p.count, p.changed, p.full = 0, 0, now, false
}

// bound a window of one of so many channels.
func (p *pace) bound(window, peers int) int {
	return min(max(window, leastBranch/peers, 16), mostBranch/peers, engine.Window)
}

// synced notes how long a sync took.
func (p *pace) synced(took time.Duration) { p.sync += (took - p.sync) / 16 }
