package sim

import "fmt"

// drained tells that nothing is left to do.
func (w *World) drained() bool { return w.left() == "" }

// left says what is not done, or nothing.
func (w *World) left() string {
	for _, n := range w.nodes {
		switch {
		case !n.up || !n.engine.Ledger.Opened():
			return n.name + " is not up"
		case !n.engine.Ready():
			return n.name + " has not linked up with all"
		case n.inFlight != nil || n.engine.Filling.Due():
			return n.name + " is at work"
		case n.engine.Ledger.SnapshotsInProgress() > 0:
			return fmt.Sprintf("%s has %d snapshots in progress", n.name, n.engine.Ledger.SnapshotsInProgress())
		}
		for p := range w.nodes {
			if p != n.i && n.engine.Ledger.Unacknowledged(p) > 0 {
				return fmt.Sprintf("%d items of %s->p%d are unacknowledged", n.engine.Ledger.Unacknowledged(p), n.name, p)
			}
		}
	}
	for _, c := range w.controllers {
		if len(c.asked) > 0 {
			return fmt.Sprintf("snapshot %d is not complete, %d parts are missing", c.asked[0].id, c.asked[0].missing)
		}
	}
	return ""
}

// checkDrained is I4: when faults and transfers stop, everything completes, and the balances alone are
// the total. Each transfer is then received once.
func checkDrained(w *World, done bool) {
	if !done {
		w.violate("I4 drain", "after %d s without faults %s", drainMicros/1_000_000, w.left())
		return
	}
	var sum int64
	got := map[uint64]int{}
	for _, n := range w.nodes {
		sum += int64(n.engine.Ledger.Balance()) //nolint:gosec // at most 2^53
		for _, list := range n.durable.received {
			for _, item := range list {
				got[item.ID]++
			}
		}
	}
	if total := share * int64(w.Branches); sum != total {
		w.violate("I4 drain", "the balances are %d, the total is %d", sum, total)
	}
	for _, n := range w.nodes {
		for p, list := range n.durable.sent {
			for _, item := range list {
				if item.Money != 0 && got[item.ID] != 1 {
					w.violate("unique ids", "transfer %d of %s->p%d was received %d times", item.ID, n.name, p, got[item.ID])
					return
				}
			}
		}
	}
}
