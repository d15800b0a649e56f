package sim

import "cutbank/proto/bankpb"

// checkChannels is I2: on each channel, sent before the sender's cut less received before the
// receiver's is what was recorded, in money and in count.
func checkChannels(w *World, id uint64, parts []*bankpb.ReturnSnapshot_LocalSnapshot) {
	for from, s := range parts {
		for to, r := range parts {
			if from == to {
				continue
			}
			at, by := without(from, to), without(to, from)
			money := s.GetSentMoney()[at] - r.GetReceivedMoney()[by]
			count := s.GetSentCount()[at] - r.GetReceivedCount()[by]
			if money != r.GetChannelState()[by] || count != r.GetChannelCount()[by] {
				w.violate("I2 channels", "snapshot %d, p%d->p%d: %d in %d transfers were between the cuts, %d in %d recorded",
					id, from, to, int64(money), int64(count), r.GetChannelState()[by], r.GetChannelCount()[by]) //nolint:gosec // a difference
				return
			}
		}
	}
}

// without is the place of a branch in a list that leaves self out.
func without(self, i int) int {
	if i > self {
		return i - 1
	}
	return i
}
