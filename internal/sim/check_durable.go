package sim

// checkRecovered: what a recovery finds is what was committed, and the commit that a crash cut is there
// as a whole or not at all.
func checkRecovered(n *node) {
	l := n.engine.Ledger
	cut := n.sealed
	n.sealed = nil
	switch {
	case len(cut) > 0 && n.durable.with(cut).same(l, n.i):
		n.w.saw(HalfCommit)
		n.sealed = cut
		n.committed()
	case n.durable.same(l, n.i):
		if len(cut) > 0 {
			n.w.saw(LostCommit)
		}
	default:
		n.w.violate("durability", "%s came back with other books than it had committed", n.name)
	}
}
