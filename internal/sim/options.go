package sim

import (
	"encoding/json"
	"math/rand/v2"
)

// Options is a run, beside its seed. Draw makes one from a seed; a failure is shrunk by turning some of
// it off. Times are virtual.
type Options struct {
	Seed        uint64
	Branches    int
	Controllers int
	Millis      int64  // of the phase with faults
	PayMillis   int64  // longest wait between two transfers of a branch
	SnapMillis  int64  // from one snapshot of a controller to the next
	FaultMillis int64  // from one fault to the next, on average, of each kind that is on
	Latency     int64  // microseconds of a message on its way, at most
	Sync        int64  // microseconds of a commit, at most
	Busy        int64  // microseconds that a loop may be late to take what was read
	Segment     int64  // bytes
	Checkpoint  int64  // bytes of events between two
	Losses      []Loss // what crashes do
	Faults      []Fault
	Broken      string // rule that is off
}

func (o Options) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Loss is what a crash does to what is not synced: simfs.Loss by name.
type Loss string

// The losses.
const (
	Keep Loss = "keep" // the process alone died
	Lose Loss = "lose"
	Tear Loss = "tear"
)

// Fault is a kind of fault.
type Fault string

// The kinds of fault, each of which a seed turns on or off.
const (
	Crash             Fault = "crash"                  // at any instant
	CrashAtIO         Fault = "crash at an I/O step"   // of a commit, a checkpoint, a new segment
	CrashInRecovery   Fault = "crash in recovery"      // at any of its I/O steps, reads too
	FsyncError        Fault = "fsync error"            // the process ends, the data may be lost
	WriteError        Fault = "I/O error"              // of a write, a rename, a removal
	DiskFull          Fault = "disk full"              // a short write, then ENOSPC
	Reset             Fault = "reset"                  // of a connection, with what is on its way
	HalfOpen          Fault = "half-open connection"   // one side sees the end much later
	Partition         Fault = "partition"              // of a pair, for a while
	Delay             Fault = "delay"                  // of a direction of a pair, for a while
	Pause             Fault = "pause"                  // of a process
	ControllerRestart Fault = "controller restart"     // it forgets all it asked for
	OldDirectory      Fault = "old directory"          // put in place of a newer one
	EmptyDirectory    Fault = "empty directory"        // the same, with nothing in it
	RepeatedRequest   Fault = "repeated request"       // of a controller
	SecondController  Fault = "second controller"      // from the start
	LostUnsynced      Fault = "unsynced writes lost"   // by a crash
	TornUnsynced      Fault = "unsynced writes torn"   // by a crash
	Reordered         Fault = "reordering of channels" // a message overtakes one of another channel
)

// switched are the faults that a seed turns on and off; the others follow from them.
func switched() []Fault {
	return []Fault{
		Crash, CrashAtIO, CrashInRecovery, FsyncError, WriteError, DiskFull, Reset, HalfOpen, Partition, Delay, Pause,
		ControllerRestart, OldDirectory, EmptyDirectory, RepeatedRequest,
	}
}

// AllFaults lists every kind, for the count of a campaign.
func AllFaults() []Fault {
	return append(switched(), SecondController, LostUnsynced, TornUnsynced, Reordered)
}

// Draw makes the options of a seed: each fault is on in about half of the runs (swarm testing: some
// bugs need a fault to be absent).
func Draw(seed uint64) Options {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // seeded on purpose
	pick := func(list ...int64) int64 { return list[r.IntN(len(list))] }
	o := Options{
		Seed: seed, Branches: int(pick(2, 2, 3, 3, 4, 5)), Controllers: int(pick(1, 1, 2)),
		Millis: pick(20_000, 40_000, 60_000), PayMillis: pick(40, 200, 1000), SnapMillis: pick(100, 500, 2000),
		FaultMillis: pick(1500, 4000, 12_000), Latency: pick(200, 5_000, 100_000), Sync: pick(50, 1000, 20_000),
		Segment: pick(1024, 4096), Checkpoint: pick(200, 1000, 4000, 1<<20),
		Losses: []Loss{Keep, Lose, Tear},
	}
	if n := r.IntN(6); n < 3 {
		o.Losses = o.Losses[n : n+1]
	}
	o.Busy = pick(0, 10_000, 500_000)
	for _, f := range switched() {
		if r.IntN(2) == 0 {
			o.Faults = append(o.Faults, f)
		}
	}
	return o
}

// Large is a bank of many branches, which opens, pays a little and takes a snapshot, without faults.
func Large(branches int) Options {
	return Options{
		Seed: 1, Branches: branches, Controllers: 1, Millis: 4000, PayMillis: 2000, SnapMillis: 2000, Latency: 1000, Sync: 1000,
		Segment: 1 << 16, Checkpoint: 1 << 20, Losses: []Loss{Keep},
	}
}
