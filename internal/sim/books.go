package sim

import (
	"slices"

	"cutbank/internal/ledger"
)

// books are what the simulator itself knows of a branch: what it decided, sent and applied, in order.
type books struct {
	opened   bool
	balance  int64
	sent     [][]ledger.Item // by peer: the whole channel
	received [][]ledger.Item
	acked    []uint64
}

// op is one change of them.
type op struct {
	kind opKind
	peer int
	item ledger.Item
	n    uint64
}

type opKind uint8

const (
	opOpen opKind = iota
	opSend
	opReceive
	opAck
)

func newBooks(n int) *books {
	return &books{sent: make([][]ledger.Item, n), received: make([][]ledger.Item, n), acked: make([]uint64, n)}
}

func (b *books) apply(o op) {
	switch o.kind {
	case opOpen:
		b.opened, b.balance = true, int64(o.n) //nolint:gosec // at most 2^53
	case opSend:
		b.sent[o.peer] = append(b.sent[o.peer], o.item)
		b.balance -= int64(o.item.Money) //nolint:gosec // at most 2^53
	case opReceive:
		b.received[o.peer] = append(b.received[o.peer], o.item)
		b.balance += int64(o.item.Money) //nolint:gosec // at most 2^53
	case opAck:
		b.acked[o.peer] = o.n
	}
}

func (b *books) clone() *books {
	c := *b
	c.sent, c.received, c.acked = slices.Clone(b.sent), slices.Clone(b.received), slices.Clone(b.acked)
	for i := range c.sent { // appends to one must not reach the other
		c.sent[i], c.received[i] = slices.Clip(c.sent[i]), slices.Clip(c.received[i])
	}
	return &c
}

// with is the books after more has happened.
func (b *books) with(ops []op) *books {
	c := b.clone()
	for _, o := range ops {
		c.apply(o)
	}
	return c
}

// same compares with a ledger.
func (b *books) same(l *ledger.Ledger, self int) bool {
	if b.opened != l.Opened() {
		return false
	}
	if !b.opened {
		return true
	}
	if b.balance != int64(l.Balance()) { //nolint:gosec // at most 2^53
		return false
	}
	for i := range b.sent {
		if i == self {
			continue
		}
		sent := uint64(len(b.sent[i]))
		if sent != l.Sent(i) || uint64(len(b.received[i])) != l.Received(i) || l.Unacknowledged(i) != int(sent-b.acked[i]) { //nolint:gosec // counts
			return false
		}
		for n := b.acked[i] + 1; n <= sent; n++ {
			if l.Item(i, n) != b.sent[i][n-1] {
				return false
			}
		}
	}
	return true
}

func prefix(short, long []ledger.Item) bool {
	return len(short) <= len(long) && slices.Equal(short, long[:len(short)])
}

// newer tells that a peer durably knows what a branch with these books does not, so that the branch has
// to be refused.
func (w *World) newer(self int, b *books) bool {
	for i, n := range w.nodes {
		if i == self {
			continue
		}
		p := n.durable
		if !prefix(p.received[self], b.sent[i]) || !prefix(b.received[i], p.sent[self]) ||
			p.acked[self] > uint64(len(b.received[i])) || b.acked[i] > uint64(len(p.received[self])) {
			return true
		}
	}
	return false
}
