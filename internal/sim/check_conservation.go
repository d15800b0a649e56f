package sim

import "cutbank/proto/bankpb"

// checkConservation is I1: balances and money in transit of a complete snapshot are the total.
func checkConservation(w *World, id uint64, parts []*bankpb.ReturnSnapshot_LocalSnapshot) {
	var sum uint64
	for _, p := range parts {
		sum += p.GetBalance()
		for _, m := range p.GetChannelState() {
			sum += m
		}
	}
	if total := share * uint64(w.Branches); sum != total { //nolint:gosec // positive
		w.violate("I1 conservation", "snapshot %d sums to %d, the total is %d", id, sum, total)
	}
}
