package ledger

import (
	"errors"
	"fmt"

	"cutbank/internal/rules"
)

// ErrFence says that two branches do not agree on their past: one has an old or foreign directory.
var ErrFence = errors.New("old or foreign data directory")

// Position tells how far the two channels with a peer have come. Each side sends its own in the
// handshake of a link and compares the other's (Verify).
type Position struct {
	Sent         uint64 // items on the channel to the peer
	Acknowledged uint64 // of those, by the peer
	Received     uint64 // items on the channel from the peer
	ReceivedHash uint64 // running content hash of those
}

// Position on the channels with a peer. It may be sent once every event so far is durable.
func (l *Ledger) Position(peer int) Position {
	p := &l.pairs[peer]
	return Position{Sent: p.out.sent, Acknowledged: p.out.acked, Received: p.received, ReceivedHash: p.receivedHash}
}

// Verify compares a peer's position with the books. Of two copies of a branch's books the older one
// is behind in what it sent or received, or has a different content at the same count, wherever a
// peer durably knows of something newer; where no peer does, nothing was lost.
//
// Error: ErrFence, with what differs and which side is the older one.
func (l *Ledger) Verify(peer int, theirs Position) error {
	p, name := &l.pairs[peer], l.plan.Names[peer]
	counts := l.plan.Broken != rules.NoCountFence
	switch {
	case counts && theirs.Received > p.out.sent:
		return fmt.Errorf("%w: %s has received %d items from here, but only %d were sent: this branch's directory is old",
			ErrFence, name, theirs.Received, p.out.sent)
	case counts && theirs.Received < p.out.acked:
		return fmt.Errorf("%w: %s has received %d items from here, but acknowledged %d before: its directory is old or empty",
			ErrFence, name, theirs.Received, p.out.acked)
	case counts && theirs.Sent < p.received:
		return fmt.Errorf("%w: %s has sent %d items, but %d were received here: its directory is old or empty",
			ErrFence, name, theirs.Sent, p.received)
	case counts && theirs.Acknowledged > p.received:
		return fmt.Errorf("%w: %s holds %d items as acknowledged from here, but only %d were received: this branch's directory is old",
			ErrFence, name, theirs.Acknowledged, p.received)
	case l.plan.Broken == rules.NoHashFence,
		!counts && (theirs.Received < p.out.acked || theirs.Received > p.out.sent): // there is no hash of that count
		return nil
	case p.out.hash(theirs.Received) != theirs.ReceivedHash:
		return fmt.Errorf("%w: the first %d items that %s received differ from those that were sent: one of the two directories is old or of another bank",
			ErrFence, theirs.Received, name)
	}
	return nil
}
