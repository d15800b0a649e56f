package controller

import "fmt"

// Difference is one thing that does not add up in a complete snapshot. Any is a bug in cutbank.
type Difference struct {
	Branch string `json:"branch,omitempty"` // a branch whose answer can't be used
	Src    string `json:"src,omitempty"`    // a channel that does not add up
	Dst    string `json:"dst,omitempty"`
	What   string `json:"what"`
}

// String names the channel or the branch, then what is wrong.
func (d Difference) String() string {
	switch {
	case d.Src != "":
		return fmt.Sprintf("channel %s->%s: %s", d.Src, d.Dst, d.What)
	case d.Branch != "":
		return fmt.Sprintf("%s: %s", d.Branch, d.What)
	default:
		return d.What
	}
}

// Audit holds a snapshot against the invariants of the bank in three ways, and returns whatever
// does not hold: every branch answered, with a part that has its right shape; balances and money in
// transit are the total (I1); on each channel, sent before the sender's cut minus received before
// the receiver's is what was recorded in transit, in money and in count (I2). Parts are in the
// order of names; nil is a branch that did not answer.
func Audit(id, total uint64, names []string, parts []*part) []Difference {
	var found []Difference
	for i, name := range names {
		if what := shape(id, len(names)-1, parts[i]); what != "" {
			found = append(found, Difference{Branch: name, What: what})
		}
	}
	if len(found) > 0 {
		return found // sums over parts that are not there mean nothing
	}
	found = auditSum(total, parts)
	for dst := range parts {
		for src := range parts {
			if src == dst {
				continue
			}
			for _, what := range auditChannel(parts, src, dst) {
				found = append(found, Difference{Src: names[src], Dst: names[dst], What: what})
			}
		}
	}
	return found
}

// auditPlain is Audit without what only branches of cutbank tell.
func auditPlain(_, total uint64, names []string, parts []*part) []Difference {
	var found []Difference
	for i, p := range parts {
		if n := len(p.GetChannelState()); n != len(names)-1 {
			found = append(found, Difference{Branch: names[i], What: fmt.Sprintf("answered %d channel states for %d peers", n, len(names)-1)})
		}
	}
	return append(found, auditSum(total, parts)...)
}

func shape(id uint64, peers int, p *part) string {
	if p == nil {
		return "did not answer"
	}
	if p.GetSnapshotId() != id {
		return fmt.Sprintf("answered snapshot %d instead of %d", p.GetSnapshotId(), id)
	}
	lists := []struct {
		what string
		n    int
	}{
		{"channel states", len(p.GetChannelState())},
		{"channel counts", len(p.GetChannelCount())},
		{"sums sent", len(p.GetSentMoney())},
		{"counts sent", len(p.GetSentCount())},
		{"sums received", len(p.GetReceivedMoney())},
		{"counts received", len(p.GetReceivedCount())},
	}
	for _, l := range lists {
		if l.n != peers {
			return fmt.Sprintf("answered %d %s for %d peers", l.n, l.what, peers)
		}
	}
	return ""
}

func auditSum(total uint64, parts []*part) []Difference {
	var inBranches, inTransit uint64
	for _, p := range parts {
		inBranches = add(inBranches, p.GetBalance())
		for _, money := range p.GetChannelState() {
			inTransit = add(inTransit, money)
		}
	}
	if add(inBranches, inTransit) == total {
		return nil
	}
	return []Difference{{What: fmt.Sprintf("%d in branches + %d in transit are not the total of %d", inBranches, inTransit, total)}}
}

func auditChannel(parts []*part, src, dst int) []string {
	in, out := other(dst, src), other(src, dst)
	s, r := parts[src], parts[dst]
	var found []string
	for _, c := range []struct {
		unit                     string
		sent, received, recorded uint64
	}{
		{"money", s.GetSentMoney()[out], r.GetReceivedMoney()[in], r.GetChannelState()[in]},
		{"transfers", s.GetSentCount()[out], r.GetReceivedCount()[in], r.GetChannelCount()[in]},
	} {
		// In this order: an amount that was received and never sent must not wrap around.
		if c.sent < c.received || c.sent-c.received != c.recorded {
			found = append(found, fmt.Sprintf("%s sent before the cut %d - received before the cut %d is not %d in transit",
				c.unit, c.sent, c.received, c.recorded))
		}
	}
	return found
}
