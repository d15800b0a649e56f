package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cutbank/internal/rules"
	"cutbank/internal/snapshot"
)

// An event is one step's change, packed; a batch is events one after the other:
//
//	head      uvarint: peer<<3 | kind
//	sent      head, money                      debit and outgoing item
//	sentID    head, money, id                  the same with a test-only id
//	received  head, count, count × money       credits and incoming position
//	receivedID head, count, count × money, id  the same with test-only ids
//	marker    head, snapshot id, time          incoming position; if first: recording and all markers
//	acked     head, count                      so many more items acknowledged
//	bare      head (peer says which), …        started; initiated: id, time; moved: addresses; opened: plan;
//	                                           of a bank without a rule: its name; a marker sent late: peer, id;
//	                                           stamped: time, of the events after it
//
// All numbers are uvarints. No event starts with a zero byte.
const (
	kindSent = iota + 1
	kindSentID
	kindReceived
	kindMarker
	kindAcked
	kindBare
	kindReceivedID
)

const (
	bareStarted = iota
	bareInitiated
	bareMoved
	bareOpened
	bareBroken
	bareLateMarker
	bareStamped
)

// ErrEvents says that bytes are not events of this version that fit the books.
var ErrEvents = errors.New("ledger: events that do not fit the books")

func appendHead(b []byte, peer, kind int) []byte {
	return binary.AppendUvarint(b, uint64(peer)<<3|uint64(kind)) //nolint:gosec // small
}

func appendBare(b []byte, which int) []byte { return appendHead(b, which, kindBare) }

func appendSent(b []byte, to int, money, id uint64) []byte {
	if id == 0 {
		return binary.AppendUvarint(appendHead(b, to, kindSent), money)
	}
	return binary.AppendUvarint(binary.AppendUvarint(appendHead(b, to, kindSentID), money), id)
}

func appendReceived(b []byte, from int, run []Item) []byte {
	named, kind := run[0].ID != 0, kindReceived
	if named {
		kind = kindReceivedID
	}
	b = binary.AppendUvarint(appendHead(b, from, kind), uint64(len(run)))
	for i := range run {
		b = binary.AppendUvarint(b, run[i].Money)
		if named {
			b = binary.AppendUvarint(b, run[i].ID)
		}
	}
	return b
}

func appendMarker(b []byte, from int, id uint64, at int64) []byte {
	return appendAll(appendHead(b, from, kindMarker), id, uint64(at)) //nolint:gosec // back again in Replay
}

func appendAcked(b []byte, by int, count uint64) []byte {
	return binary.AppendUvarint(appendHead(b, by, kindAcked), count)
}

func appendInitiated(b []byte, id uint64, at int64) []byte {
	return appendAll(appendBare(b, bareInitiated), id, uint64(at)) //nolint:gosec // back again in Replay
}

// Stamp notes when the events of a batch were made, in microseconds since 1970, for people.
func Stamp(events []byte, at int64) []byte {
	return slices.Insert(events, 0, binary.AppendUvarint(appendBare(nil, bareStamped), uint64(at))...) //nolint:gosec // back again in Follow
}

// Replay applies the events of a batch again, as they were persisted. Error: ErrEvents.
func (l *Ledger) Replay(events []byte) error { return l.Follow(events, nil) }

// Follow is Replay that tells what each event did. See may be nil.
func (l *Ledger) Follow(events []byte, see func(Event)) error {
	r := reader{b: events}
	t := teller{l: l, see: see}
	for len(r.b) > 0 {
		head := r.uvarint()
		peer, kind := int(head>>3), int(head&7)
		if kind != kindBare && (peer < 0 || peer >= len(l.pairs) || peer == l.self) {
			return fmt.Errorf("%w: kind %d of peer %d", ErrEvents, kind, peer)
		}
		if err := l.replay(&r, &t, kind, peer); err != nil {
			return err
		}
		if r.bad {
			return fmt.Errorf("%w: cut short", ErrEvents)
		}
	}
	return nil
}

func (l *Ledger) replay(r *reader, t *teller, kind, peer int) error {
	switch kind {
	case kindSent, kindSentID:
		var id uint64
		money := r.uvarint()
		if kind == kindSentID {
			id = r.uvarint()
		}
		if money == 0 || money > l.balance {
			return fmt.Errorf("%w: %d sent of a balance of %d", ErrEvents, money, l.balance)
		}
		l.applySent(peer, money, id)
		t.item(Sent, peer, money, 0)
	case kindReceived, kindReceivedID:
		n := r.count(1)
		for range n {
			item := [1]Item{{Money: r.uvarint()}}
			if kind == kindReceivedID {
				item[0].ID = r.uvarint()
			}
			if m := item[0].Money; m == 0 || m > l.limit-l.balance {
				return fmt.Errorf("%w: %d received at a balance of %d", ErrEvents, m, l.balance)
			}
			l.applyReceived(peer, item[:])
			t.item(Received, peer, item[0].Money, 0)
		}
	case kindMarker:
		id := r.uvarint()
		if id == 0 || l.markerTwice(peer, id) {
			return fmt.Errorf("%w: marker %d twice, or of no snapshot", ErrEvents, id)
		}
		first, _ := l.applyMarker(peer, id, int64(r.uvarint())) //nolint:gosec // as it was written
		t.item(MarkerReceived, peer, 0, id)
		if first {
			t.recorded(id)
		}
	case kindAcked:
		box := &l.pairs[peer].out
		n := r.uvarint()
		if n > box.sent-box.acked {
			return fmt.Errorf("%w: %d acknowledged of %d", ErrEvents, n, box.sent-box.acked)
		}
		box.acknowledge(box.acked + n)
	case kindBare:
		return l.replayBare(r, t, peer)
	default:
		return fmt.Errorf("%w: kind %d", ErrEvents, kind)
	}
	return nil
}

func (l *Ledger) replayBare(r *reader, t *teller, which int) error {
	if which == bareStamped {
		t.at = int64(r.uvarint()) //nolint:gosec // as it was written
		return nil
	}
	if !l.Opened() != (which == bareOpened) {
		return fmt.Errorf("%w: opened twice, or not yet", ErrEvents)
	}
	switch which {
	case bareStarted:
		l.applyStarted()
		t.tell(Event{Kind: Started})
	case bareInitiated:
		id := r.uvarint()
		if known, gone := l.Snapshot(id); known != nil || gone || id == 0 {
			return fmt.Errorf("%w: snapshot %d started again", ErrEvents, id)
		}
		l.applyInitiated(id, int64(r.uvarint())) //nolint:gosec // as it was written
		t.recorded(id)
	case bareMoved:
		l.addresses = r.strings(len(l.plan.Names))
	case bareOpened:
		plan, self, addresses, err := r.place()
		if err != nil {
			return err
		}
		l.applyOpened(plan, self, addresses)
		t.restored(plan.InTransit)
	case bareBroken:
		l.plan.Broken = r.rule()
	case bareLateMarker:
		peer, id := r.uvarint(), r.uvarint()
		if peer >= uint64(len(l.pairs)) || id == 0 {
			return fmt.Errorf("%w: marker %d to peer %d", ErrEvents, id, peer)
		}
		l.push(int(peer), Item{Marker: id})  //nolint:gosec // below the number of peers
		t.item(MarkerSent, int(peer), 0, id) //nolint:gosec // below the number of peers
	default:
		return fmt.Errorf("%w: kind %d of none", ErrEvents, which)
	}
	return nil
}

// ---- what events do; checked before ----

func (l *Ledger) applyOpened(plan Plan, self int, addresses []string) {
	l.plan, l.self, l.addresses = plan, self, addresses
	l.limit = MaxMoney
	if plan.Total != 0 {
		l.limit = plan.Total
	}
	l.balance = plan.Balances[self]
	l.pairs = make([]pair, len(plan.Names))
	l.process = snapshot.NewProcess(self, len(plan.Names))
	l.lastID, l.floor = plan.LastSnapshotID, plan.LastSnapshotID
	for _, t := range plan.InTransit {
		if t.Src == self {
			l.push(t.Dst, Item{Money: t.Money})
		}
	}
}

func (l *Ledger) applyStarted() {
	l.incarnation++
	l.restartBroken()
}

func (l *Ledger) applySent(to int, money, id uint64) {
	l.balance -= money
	l.push(to, Item{Money: money, ID: id})
}

func (l *Ledger) push(to int, item Item) {
	p := &l.pairs[to]
	p.out.push(item)
	if item.Money != 0 {
		p.sentFlow.Count++
		p.sentFlow.Money += item.Money
	}
}

func (l *Ledger) applyReceived(from int, run []Item) {
	p := &l.pairs[from]
	hash, sum := p.receivedHash, uint64(0)
	for i := range run {
		hash = mix(hash, run[i])
		sum += run[i].Money
	}
	p.receivedHash = hash
	p.received += uint64(len(run))
	p.receivedFlow.Count += uint64(len(run))
	p.receivedFlow.Money += sum
	l.balance += sum
}

func (l *Ledger) applyMarker(from int, id uint64, at int64) (first, complete bool) {
	p := &l.pairs[from]
	p.received++
	p.receivedHash = mix(p.receivedHash, Item{Marker: id})
	r, first, err := l.process.Marker(id, from, l)
	if err != nil {
		panic(err) // checked by receiveMarker and Replay
	}
	if first {
		l.recorded(r, at)
	}
	if l.plan.Broken == rules.NoChannelState {
		r.Channels[from].State = snapshot.Flow{}
	}
	if r.Complete() {
		l.keep(r, at)
	}
	return first, r.Complete()
}

func (l *Ledger) applyInitiated(id uint64, at int64) {
	l.recorded(l.process.Start(id, l), at)
}

// recorded does what a recording entails in the same step: a marker on every outgoing channel,
// before anything else goes out there (Marker-Sending Rule).
func (l *Ledger) recorded(r *snapshot.Recording, at int64) {
	r.Incarnation, r.RecordedAt = l.incarnation, at
	l.lastID = max(l.lastID, r.ID)
	if l.owesMarkers() {
		l.owe(r.ID)
		return
	}
	for peer := range l.pairs {
		if peer != l.self {
			l.push(peer, Item{Marker: r.ID})
		}
	}
}

func (l *Ledger) keep(r *snapshot.Recording, at int64) {
	r.CompletedAt = at
	if len(l.done) == MaxDone {
		l.floor = max(l.floor, l.done[0].ID)
		l.done = append(l.done[:0], l.done[1:]...)
	}
	l.done = append(l.done, r)
}
