package engine

import "cutbank/internal/rules"

// What a branch does in a bank without one of the rules (package rules).

// lacks tells that the bank does without a rule.
func (e *Engine[P]) lacks(r rules.Rule) bool { return e.Ledger.Plan().Broken == r }

// leak lets effects of a sealed batch out before it is durable.
func (e *Engine[P]) leak(b *Batch[P]) {
	for _, m := range b.marks {
		d := &e.peers[m.peer].durable
		switch {
		case e.lacks(rules.SendBeforeDurable):
			d.sent = m.sent
		case e.lacks(rules.AckBeforeDurable):
			d.received = m.received
		default:
			continue
		}
		e.flush(m.peer)
	}
	if e.lacks(rules.AnswerBeforeDurable) {
		for _, r := range b.replies {
			r.to.Reply(r.m)
		}
		clear(b.replies)
		b.replies = b.replies[:0]
	}
}

// resume tells what counts as acknowledged and as sent when a peer comes back that has received so much: just
// that, unless a rule is off.
func (e *Engine[P]) resume(i int, received uint64) (acked, sent uint64) {
	l, before := e.Ledger, e.Ledger.Acknowledged(i)
	switch {
	case e.lacks(rules.NoDedupe):
		return before, before
	case e.lacks(rules.PositionPerConnection) && e.peers[i].next > 0:
		return received, max(received, e.peers[i].next-1)
	case e.lacks(rules.NoCountFence):
		received = max(before, min(received, l.Sent(i)))
	}
	return received, received
}
