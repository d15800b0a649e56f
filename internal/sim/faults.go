package sim

import (
	"errors"
	"syscall"

	"cutbank/internal/journal/simfs"
)

var errSync = errors.New("simulated fsync error")

// scheduleFaults starts a process of its own for each kind that is on.
func (w *World) scheduleFaults() {
	for _, f := range w.Options.Faults {
		if strike := w.striker(f); strike != nil {
			w.again(strike)
		}
	}
}

// again strikes at random times until the second phase.
func (w *World) again(strike func(n *node)) {
	w.after(w.upTo(2*w.FaultMillis*1000), func() {
		if !w.calm {
			strike(w.nodes[w.random.IntN(w.Branches)])
			w.again(strike)
		}
	})
}

// striker does a kind of fault to a branch; nil for kinds that need no process.
func (w *World) striker(f Fault) func(n *node) {
	switch f {
	case Crash:
		return func(n *node) {
			if n.up {
				w.fault(Crash, n.i)
				n.crash(n.loss())
			}
		}
	case CrashAtIO:
		return func(n *node) { n.arm(simfs.Fault{}) }
	case FsyncError:
		return func(n *node) { n.arm(simfs.Fault{Err: errSync}) }
	case WriteError:
		return func(n *node) { n.arm(simfs.Fault{Err: syscall.EIO}) }
	case DiskFull:
		return func(n *node) { n.arm(simfs.Fault{Err: syscall.ENOSPC, Keep: int(w.upTo(600))}) }
	case Reset:
		return w.reset
	case Partition:
		return w.partition
	case Delay:
		return func(n *node) {
			w.fault(Delay, n.i)
			w.slow[n.i*w.Branches+w.other(n)] = w.now + w.upTo(5_000_000)
		}
	case Pause:
		return w.pause
	case ControllerRestart:
		return func(n *node) { w.controllers[w.random.IntN(len(w.controllers))].restart(n.i) }
	case OldDirectory, EmptyDirectory:
		return w.putOld
	default:
		return nil
	}
}

// other is a random peer.
func (w *World) other(n *node) int { return (n.i + 1 + w.random.IntN(w.Branches-1)) % w.Branches }

// arm lets one of the next I/O steps go wrong. An fsync error waits for a step that is a sync.
func (n *node) arm(f simfs.Fault) {
	if !n.up || n.fs.Fault.Step != 0 && n.fs.Fault.Step > n.fs.Steps() {
		return
	}
	f.Step = n.fs.Steps() + 1 + n.w.random.IntN(12)
	n.fs.Fault = f
	n.fs.Trace = nil
	if errors.Is(f.Err, errSync) || f.Err != nil && f.Keep > 0 {
		n.await(f)
	}
}

// await moves a fault on to the first step that it fits.
func (n *node) await(f simfs.Fault) {
	n.fs.Trace = func(s simfs.Step) {
		fits := s.Op == simfs.OpSync || s.Op == simfs.OpSyncDir
		if !errors.Is(f.Err, errSync) {
			fits = s.Op == simfs.OpWrite || s.Op == simfs.OpCreate
		}
		if s.N == n.fs.Fault.Step && !fits {
			n.fs.Fault.Step++
		}
	}
}

// armRecovery may let a step of the recovery go wrong.
func (n *node) armRecovery() {
	if n.w.calm || !n.w.on(CrashInRecovery) || !n.w.chance(3) {
		return
	}
	n.fs.Trace = nil
	if n.w.chance(3) {
		n.fs.ReadFault = simfs.Fault{Step: n.fs.Reads() + 1 + n.w.random.IntN(8)}
	} else {
		n.fs.Fault = simfs.Fault{Step: n.fs.Steps() + 1 + n.w.random.IntN(12)}
	}
}

func (w *World) reset(n *node) {
	if !n.up {
		return
	}
	for _, p := range n.links[w.other(n)].ports {
		if p.open {
			w.fault(Reset, n.i)
			w.end(p.c, p.side, w.halfOpen(p.peer))
			return
		}
	}
}

// partition lets nothing through between two branches for a while, in one direction or both. What was
// sent arrives afterwards, unless the connection ends first.
func (w *World) partition(n *node) {
	peer, until := w.other(n), w.now+w.upTo(8_000_000)
	w.fault(Partition, n.i)
	w.blocked[n.i*w.Branches+peer] = until
	if w.chance(2) {
		w.blocked[peer*w.Branches+n.i] = until
	}
	if n.up && w.chance(2) {
		for _, p := range n.links[peer].ports {
			w.after(w.upTo(10_000_000), func() { w.end(p.c, p.side, w.upTo(10_000_000)) })
		}
	}
}

func (w *World) pause(n *node) {
	if !n.up || n.paused {
		return
	}
	w.fault(Pause, n.i)
	n.paused = true
	life := n.life
	w.after(w.upTo(3_000_000), func() {
		if life == n.life {
			n.resume()
		}
	})
}

// resume lets a paused process go on with what has waited.
func (n *node) resume() {
	n.paused = false
	waiting := n.waiting
	n.waiting = nil
	for _, run := range waiting {
		run()
	}
}

// heal ends all faults that last.
func (w *World) heal() {
	clear(w.blocked)
	clear(w.slow)
	for _, n := range w.nodes {
		n.fs.Fault, n.fs.ReadFault = simfs.Fault{}, simfs.Fault{}
		n.putBack()
		if n.paused {
			n.resume()
		}
	}
}
