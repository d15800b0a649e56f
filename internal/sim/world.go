package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// World is one run.
type World struct {
	Options
	Result

	now    int64 // virtual microseconds
	seq    uint64
	queue  queue
	random *rand.Rand
	calm   bool // the second phase: no new faults, payments, snapshots

	nodes       []*node
	controllers []*controller
	blocked     []int64 // by pair a*N+b: nothing arrives before
	slow        []int64 // by pair: until then everything takes longer
	receivers   []*receiver
	told        told
	nextID      uint64 // of a transfer
	conns       int

	traced []string
	trace  bool
}

// Result is what a run comes to.
type Result struct {
	Violation *Violation
	Hash      uint64 // of every step: the same seed gives the same
	Events    uint64
	Virtual   int64 // microseconds
	Transfers uint64
	Snapshots int // complete
	Faults    map[Fault]int
	Sometimes map[Rare]int
}

// Violation is the verdict of a checker.
type Violation struct {
	Checker string
	At      int64 // virtual microseconds
	What    string
}

func (v *Violation) String() string {
	return fmt.Sprintf("%s at %.6f s: %s", v.Checker, float64(v.At)/1e6, v.What)
}

type event struct {
	at  int64
	seq uint64
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is heap.Interface's.
func (q *queue) Push(x any) { *q = append(*q, x.(event)) } //nolint:forcetypeassert // ours

// Pop is heap.Interface's.
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// Run makes one run.
func Run(o Options, trace bool) (Result, []string) {
	w := &World{Options: o, random: rand.New(rand.NewPCG(o.Seed, 2)), trace: trace} //nolint:gosec // seeded
	w.Hash, w.Result.Faults, w.Sometimes = 14695981039346656037, map[Fault]int{}, map[Rare]int{}
	w.blocked, w.slow = make([]int64, o.Branches*o.Branches), make([]int64, o.Branches*o.Branches)
	w.told = newTold()
	w.run()
	w.Virtual = w.now
	return w.Result, w.traced
}

func (w *World) run() {
	defer func() {
		if r := recover(); r != nil {
			w.violate("panic", "%v", r)
			if w.trace {
				panic(r)
			}
		}
	}()
	for i := range w.Branches {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	for _, n := range w.nodes {
		n.start()
	}
	for k := range w.Controllers {
		w.controllers = append(w.controllers, newController(w, k))
	}
	if w.Controllers > 1 {
		w.fault(SecondController, -1)
	}
	w.scheduleFaults()
	w.until(w.Millis*1000, func() bool { return false })
	w.calm = true
	w.heal()
	// Redials take up to half a second, half-open connections ten, and then markers go round.
	if done := w.until(w.now+drainMicros, w.drained); w.Violation == nil {
		checkDrained(w, done)
	}
}

const drainMicros = 120_000_000

// until runs the events up to a time, or until done, which is asked now and then.
func (w *World) until(end int64, done func() bool) bool {
	ask := w.now
	for w.Violation == nil && len(w.queue) > 0 && w.queue[0].at <= end {
		if w.queue[0].at > ask {
			if done() {
				return true
			}
			ask = w.queue[0].at + 20_000
		}
		e := heap.Pop(&w.queue).(event) //nolint:forcetypeassert // ours
		w.now = e.at
		w.Events++
		e.do()
	}
	return w.Violation == nil && done()
}

func (w *World) at(t int64, do func()) {
	w.seq++
	heap.Push(&w.queue, event{max(t, w.now), w.seq, do})
}

func (w *World) after(d int64, do func()) { w.at(w.now+d, do) }

// upTo is a random number from 0 to n.
func (w *World) upTo(n int64) int64 { return w.random.Int64N(n + 1) }

// chance is true once in n times.
func (w *World) chance(n int) bool { return w.random.IntN(n) == 0 }

// note puts a step into the hash, and into the trace of a run that is looked at.
func (w *World) note(what string, i, j int, x uint64) {
	const prime = 1099511628211
	h := w.Hash
	for _, v := range [...]uint64{uint64(w.now), uint64(i), uint64(j), x} { //nolint:gosec // only mixed
		h = (h ^ v) * prime
	}
	for k := range len(what) {
		h = (h ^ uint64(what[k])) * prime
	}
	w.Hash = h
	if w.trace {
		peer := ""
		if j >= 0 {
			peer = fmt.Sprintf(" p%d", j)
		}
		w.say("p%d%s  %s %d", i, peer, what, x)
	}
}

// say adds a line to the trace, which must not change the run.
func (w *World) say(format string, args ...any) {
	w.traced = append(w.traced, fmt.Sprintf("%12.6f  ", float64(w.now)/1e6)+fmt.Sprintf(format, args...))
}

func (w *World) violate(checker, format string, args ...any) {
	if w.Violation == nil {
		w.Violation = &Violation{checker, w.now, fmt.Sprintf(format, args...)}
	}
}

func (w *World) on(f Fault) bool { return slices.Contains(w.Options.Faults, f) }

// fault counts one that really happened.
func (w *World) fault(f Fault, i int) {
	w.Result.Faults[f]++
	w.note(string(f), i, -1, 0)
}

// Rare is a situation that a campaign must have seen.
type Rare string

// The situations.
const (
	InsideCheckpoint  Rare = "crash inside a checkpoint"
	InsideSegment     Rare = "crash while a segment is made"
	RecoveryTwice     Rare = "two crashes in a row in recovery"
	UnheardCommit     Rare = "a commit that is durable and nobody heard of"
	HalfCommit        Rare = "a commit that a crash cut, and that was there afterwards"
	LostCommit        Rare = "a commit that a crash cut, and that was not"
	StaleBytes        Rare = "stale connection with buffered bytes"
	Replaced          Rare = "connection replaced while it was up"
	InitiatorTwice    Rare = "snapshot completed after two crashes of its initiator"
	AnyoneDown        Rare = "snapshot completed though a branch was down during it"
	Overlapping       Rare = "two snapshots in progress at a branch"
	SameID            Rare = "two controllers chose the same id"
	WaitedRetrieve    Rare = "retrieve that waited for its snapshot"
	OldRefused        Rare = "old directory refused"
	OldUnknown        Rare = "old directory that nobody knew newer of went on"
	NewerRefused      Rare = "newer directory refused after the older one had paid"
	MoneyCrossed      Rare = "money in transit in a snapshot"
	ResentMarker      Rare = "marker owed on a new connection"
	CheckpointRestart Rare = "restart from a checkpoint with unacknowledged items"
)

// AllRare lists them.
func AllRare() []Rare {
	return []Rare{
		InsideCheckpoint, InsideSegment, RecoveryTwice, UnheardCommit, HalfCommit, LostCommit, StaleBytes, Replaced,
		InitiatorTwice, AnyoneDown, Overlapping, SameID, WaitedRetrieve, OldRefused, OldUnknown, NewerRefused,
		MoneyCrossed, ResentMarker, CheckpointRestart,
	}
}

func (w *World) saw(r Rare) { w.Sometimes[r]++ }

// TraceText is the end of a trace.
func TraceText(lines []string, last int) string {
	return strings.Join(lines[max(0, len(lines)-last):], "\n")
}
