package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"cutbank/internal/rules"
	"cutbank/internal/snapshot"
)

// checkpointVersion is the first number of a checkpoint.
const checkpointVersion = 1

// maxItems is more than a channel can ever count; below it no sum of counts overflows.
const maxItems = 1 << 62

// Checkpoint appends the whole state: the fold of all events so far. Load takes it back.
func (l *Ledger) Checkpoint(b []byte) []byte {
	b = appendAll(b, checkpointVersion)
	b = appendPlace(b, &l.plan, l.self, l.addresses)
	b = appendAll(b, l.incarnation, l.balance, l.lastID, l.floor)
	for i := range l.pairs {
		p := &l.pairs[i]
		b = appendAll(b, p.received, p.receivedHash)
		b = appendFlow(appendFlow(b, p.sentFlow), p.receivedFlow)
		if l.plan.Broken == rules.CheckpointWithoutOutbox {
			b = appendAll(b, p.out.sent, p.out.sent, p.out.hash(p.out.sent))
			continue
		}
		b = appendAll(b, p.out.sent, p.out.acked, p.out.ackedHash)
		for n := p.out.acked + 1; n <= p.out.sent; n++ {
			item := p.out.at(n).Item
			b = appendAll(b, item.Money, item.Marker, item.ID)
		}
	}
	b = appendRecordings(b, l.process.InProgress())
	b = appendRecordings(b, l.done)
	if l.plan.Broken != rules.None {
		b = appendString(b, l.plan.Broken.String())
	}
	return b
}

// Load makes an empty ledger the one that was written by Checkpoint. Error: ErrEvents.
func (l *Ledger) Load(state []byte) error {
	r := reader{b: state}
	if v := r.uvarint(); v != checkpointVersion {
		return fmt.Errorf("%w: checkpoint of version %d, this program reads %d", ErrEvents, v, checkpointVersion)
	}
	plan, self, addresses, err := r.place()
	if err != nil {
		return err
	}
	settled := plan
	settled.InTransit = nil // it is in the outboxes below
	l.applyOpened(settled, self, addresses)
	l.plan = plan
	l.incarnation, l.balance, l.lastID, l.floor = r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint()
	r.bad = r.bad || l.balance > l.limit
	for i := range l.pairs {
		r.pair(&l.pairs[i])
	}
	for _, rec := range r.recordings(len(l.pairs)) {
		l.process.Resume(rec)
		r.bad = r.bad || rec.Complete() || !rec.Channels[l.self].Closed
	}
	l.done = r.recordings(len(l.pairs))
	for _, rec := range l.done {
		open := func(c snapshot.Channel) bool { return !c.Closed }
		r.bad = r.bad || slices.ContainsFunc(rec.Channels, open) || l.process.Get(rec.ID) != nil
	}
	if len(r.b) > 0 {
		l.plan.Broken = r.rule()
	}
	if r.bad || len(l.done) > MaxDone || len(r.b) != 0 {
		return fmt.Errorf("%w: a checkpoint that is cut short or too long", ErrEvents)
	}
	return nil
}

func appendAll(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendFlow(b []byte, f snapshot.Flow) []byte { return appendAll(b, f.Count, f.Money) }

func appendPlan(b []byte, p *Plan) []byte {
	b = append(b, p.BankID[:]...)
	b = appendString(b, string(p.Key))
	b = appendAll(b, p.Total, p.LastSnapshotID)
	b = appendAll(b, uint64(len(p.Names)))
	for i := range p.Names {
		b = appendAll(appendString(b, p.Names[i]), p.Balances[i])
	}
	b = appendAll(b, uint64(len(p.InTransit)))
	for _, t := range p.InTransit {
		b = appendAll(b, uint64(t.Src), uint64(t.Dst), t.Money) //nolint:gosec // indexes
	}
	return b
}

// appendPlace appends the bank and the branch's place in it.
func appendPlace(b []byte, plan *Plan, self int, addresses []string) []byte {
	return appendStrings(appendAll(appendPlan(b, plan), uint64(self)), addresses) //nolint:gosec // an index
}

func appendRecordings(b []byte, list []*snapshot.Recording) []byte {
	b = appendAll(b, uint64(len(list)))
	for _, rec := range list {
		b = appendAll(b, rec.ID, rec.Balance, uint64(rec.FirstFrom+1), rec.Incarnation, //nolint:gosec // Initiator is −1
			uint64(rec.RecordedAt), uint64(rec.CompletedAt)) //nolint:gosec // back again in recordings
		for i := range rec.Channels {
			c := &rec.Channels[i]
			closed := uint64(0)
			if c.Closed {
				closed = 1
			}
			b = appendAll(appendFlow(appendFlow(appendFlow(b, c.Sent), c.Received), c.State), closed)
		}
	}
	return b
}

// reader takes numbers off bytes; what is not there reads as 0 and makes it bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads the length of a list whose elements have at least size bytes.
func (r *reader) count(size uint64) uint64 {
	n := r.uvarint()
	if n > uint64(len(r.b))/size {
		r.b, r.bad = nil, true
		return 0
	}
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

func (r *reader) strings(n int) []string {
	if n > len(r.b) {
		r.bad = true
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

// rule reads the name of the rule that a bank does without.
func (r *reader) rule() rules.Rule {
	rule, err := rules.Parse(r.string())
	r.bad = r.bad || err != nil || rule == rules.None
	return rule
}

func (r *reader) flow() snapshot.Flow {
	return snapshot.Flow{Count: r.uvarint(), Money: r.uvarint()}
}

func (r *reader) plan() Plan {
	var p Plan
	copy(p.BankID[:], r.bytes(uint64(len(p.BankID))))
	if key := r.string(); key != "" {
		p.Key = []byte(key)
	}
	p.Total, p.LastSnapshotID = r.uvarint(), r.uvarint()
	for range r.count(2) {
		p.Names = append(p.Names, r.string())
		p.Balances = append(p.Balances, r.uvarint())
	}
	for range r.count(3) {
		p.InTransit = append(p.InTransit, InTransit{
			Src: int(r.uvarint()), Dst: int(r.uvarint()), Money: r.uvarint(), //nolint:gosec // checked by Plan.check
		})
	}
	return p
}

// place reads what appendPlace wrote. Error: ErrEvents.
func (r *reader) place() (plan Plan, self int, addresses []string, err error) {
	plan = r.plan()
	i := r.uvarint()
	addresses = r.strings(len(plan.Names))
	if r.bad || i >= uint64(len(plan.Names)) {
		return plan, 0, nil, fmt.Errorf("%w: the plan", ErrEvents)
	}
	if self, err = plan.check(plan.Names[i], addresses); err != nil {
		err = fmt.Errorf("%w: the plan: %w", ErrEvents, err)
	}
	return plan, self, addresses, err
}

func (r *reader) pair(p *pair) {
	p.received, p.receivedHash = r.uvarint(), r.uvarint()
	p.sentFlow, p.receivedFlow = r.flow(), r.flow()
	sent := r.uvarint()
	p.out = outbox{acked: r.uvarint()}
	p.out.sent, p.out.ackedHash = p.out.acked, r.uvarint()
	if max(sent, p.received) > maxItems || p.out.acked > sent || sent-p.out.acked > uint64(len(r.b))/3 {
		r.b, r.bad = nil, true
		return
	}
	for p.out.sent < sent {
		item := Item{Money: r.uvarint(), Marker: r.uvarint(), ID: r.uvarint()}
		r.bad = r.bad || item.Money > MaxMoney || (item.Money == 0) == (item.Marker == 0)
		p.out.push(item)
	}
}

func (r *reader) recordings(n int) []*snapshot.Recording {
	var list []*snapshot.Recording
	for range r.count(6 + 7*uint64(n)) { //nolint:gosec // the number of branches
		rec := &snapshot.Recording{
			ID: r.uvarint(), Balance: r.uvarint(), FirstFrom: int(r.uvarint()) - 1, Incarnation: r.uvarint(), //nolint:gosec // checked below
			RecordedAt: int64(r.uvarint()), CompletedAt: int64(r.uvarint()), //nolint:gosec // as they were written
			Channels: make([]snapshot.Channel, n),
		}
		again := func(other *snapshot.Recording) bool { return other.ID == rec.ID }
		r.bad = r.bad || rec.ID == 0 || slices.ContainsFunc(list, again) || rec.FirstFrom < snapshot.Initiator || rec.FirstFrom >= n
		for i := range rec.Channels {
			rec.Channels[i] = snapshot.Channel{Sent: r.flow(), Received: r.flow(), State: r.flow(), Closed: r.uvarint() != 0}
		}
		list = append(list, rec)
	}
	return list
}
