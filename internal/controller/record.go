package controller

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"

	"cutbank/proto/bankpb"
)

// RecordSchema is the schema of a Record; the number changes only when old readers would break.
const RecordSchema = "cutbank.snapshot/1"

// Outcomes of a snapshot, as Record.Status has them.
const (
	Consistent   = "consistent"
	Inconsistent = "inconsistent"
	Incomplete   = "incomplete"
)

// Record is a snapshot: a line of snapshots.jsonl, of --json, and what the dashboard is sent.
// Branches are in roster order; channels by receiver, then by sender, zeros kept.
type Record struct {
	Schema      string          `json:"schema"`
	BankID      string          `json:"bank_id"` // hexadecimal
	SnapshotID  uint64          `json:"snapshot_id"`
	Initiator   string          `json:"initiator"`
	Status      string          `json:"status"`
	WaitingFor  []string        `json:"waiting_for,omitempty"` // of an incomplete one: who has not answered
	Differences []Difference    `json:"differences,omitempty"` // of an inconsistent one
	BrokenRule  string          `json:"broken_rule,omitempty"` // of a bank opened with --break
	StartedAt   string          `json:"started_at"`
	DurationMS  float64         `json:"duration_ms"`
	Total       uint64          `json:"total"`
	InBranches  uint64          `json:"in_branches"`
	InTransit   uint64          `json:"in_transit"`
	Imbalance   int64           `json:"imbalance"` // found minus total; 0 of an incomplete one
	Branches    []BranchRecord  `json:"branches"`
	Channels    []ChannelRecord `json:"channels"`
	Restarts    map[string]int  `json:"restarts"` // of branches that were started more than once
}

// BranchRecord is one branch at its cut.
type BranchRecord struct {
	Name            string `json:"name"`
	Incarnation     uint64 `json:"incarnation"`
	Balance         uint64 `json:"balance"`
	RecordedAt      string `json:"recorded_at"`
	CompletedAt     string `json:"completed_at"`
	FirstMarkerFrom string `json:"first_marker_from"` // empty at an initiator
}

// ChannelRecord is one channel at the cut: what was in transit, and how many transfers were sent
// before the sender's cut and received before the receiver's, since the bank was opened.
type ChannelRecord struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	Amount   uint64 `json:"amount"`
	Count    uint64 `json:"count"`
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
}

// part is what one branch answered; nil when it has not.
type part = bankpb.ReturnSnapshot_LocalSnapshot

// NewPlainRecord is the record of a snapshot of branches that know the assignment's messages alone:
// consistent when each part has its shape and the sum is right. Nil is a branch that has not answered.
func NewPlainRecord(id, total uint64, names []string, parts []*bankpb.ReturnSnapshot_LocalSnapshot) Record {
	return newRecord(id, total, names, parts, auditPlain)
}

// newRecord makes the record of a snapshot from the parts that came in. What the audit found is in
// it; the caller adds who started it and when.
func newRecord(id, total uint64, names []string, parts []*part, audit func(id, total uint64, names []string, parts []*part) []Difference) Record {
	r := Record{Schema: RecordSchema, SnapshotID: id, Status: Consistent, Total: total, Restarts: map[string]int{}}
	for i, p := range parts {
		if p == nil {
			r.WaitingFor = append(r.WaitingFor, names[i])
			continue
		}
		r.addBranch(names[i], p)
	}
	if len(r.WaitingFor) > 0 {
		r.Status = Incomplete
		return r
	}
	r.Differences = audit(id, total, names, parts)
	if len(r.Differences) > 0 {
		r.Status = Inconsistent
	}
	for dst, p := range parts {
		for src := range names {
			if src != dst {
				r.addChannel(names, src, dst, parts[src], p)
			}
		}
	}
	r.Imbalance = imbalance(add(r.InBranches, r.InTransit), total)
	return r
}

func (r *Record) addBranch(name string, p *part) {
	r.InBranches = add(r.InBranches, p.GetBalance())
	r.Branches = append(r.Branches, BranchRecord{
		Name: name, Incarnation: p.GetIncarnation(), Balance: p.GetBalance(),
		RecordedAt:      stamp(time.UnixMicro(p.GetRecordedAtUs())),
		CompletedAt:     stamp(time.UnixMicro(p.GetCompletedAtUs())),
		FirstMarkerFrom: p.GetFirstMarkerFrom(),
	})
	if n := p.GetIncarnation(); n > 1 && n < math.MaxInt32 {
		r.Restarts[name] = int(n - 1)
	}
}

func (r *Record) addChannel(names []string, src, dst int, sender, receiver *part) {
	in, out := other(dst, src), other(src, dst)
	amount := at(receiver.GetChannelState(), in)
	r.InTransit = add(r.InTransit, amount)
	r.Channels = append(r.Channels, ChannelRecord{
		Src: names[src], Dst: names[dst], Amount: amount, Count: at(receiver.GetChannelCount(), in),
		Sent: at(sender.GetSentCount(), out), Received: at(receiver.GetReceivedCount(), in),
	})
}

// initiator is who recorded without a marker: the branch that was asked, unless another controller
// started the same snapshot elsewhere.
func (r *Record) initiator(asked string) string {
	initiator := asked
	for _, b := range r.Branches {
		if b.FirstMarkerFrom != "" {
			continue
		}
		if b.Name == asked {
			return asked
		}
		if initiator == asked {
			initiator = b.Name
		}
	}
	return initiator
}

// Block is the snapshot in the assignment's format, with the blank line that ends it. Only a
// complete one has a block.
func (r Record) Block() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "snapshot_id: %d\n", r.SnapshotID)
	channels := r.Channels
	for _, branch := range r.Branches {
		fmt.Fprintf(&b, "%s: %d", branch.Name, branch.Balance)
		for len(channels) > 0 && channels[0].Dst == branch.Name {
			fmt.Fprintf(&b, ", %s->%s: %d", channels[0].Src, channels[0].Dst, channels[0].Amount)
			channels = channels[1:]
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// Line is the summary of the snapshot, without a line end.
func (r Record) Line() string {
	if r.Status == Incomplete {
		return fmt.Sprintf("snapshot %d  incomplete: no answer from %s", r.SnapshotID, listed(r.WaitingFor))
	}
	mark := "✓"
	if r.Status != Consistent {
		mark = "✗"
	}
	line := fmt.Sprintf("snapshot %d  %d in branches + %d in transit = %d %s  %s", r.SnapshotID,
		r.InBranches, r.InTransit, add(r.InBranches, r.InTransit), mark, milliseconds(r.DurationMS))
	switch {
	case r.Imbalance > 0:
		line += fmt.Sprintf("  %d too much", r.Imbalance)
	case r.Imbalance < 0:
		line += fmt.Sprintf("  %d missing", -r.Imbalance)
	}
	return line
}

func milliseconds(ms float64) string {
	if ms >= 100 {
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
}

// other is the position of a peer in a list that leaves out the branch itself.
func other(self, peer int) int {
	if peer > self {
		return peer - 1
	}
	return peer
}

func at(list []uint64, i int) uint64 {
	if i < len(list) {
		return list[i]
	}
	return 0
}

// add stops at the top: an impossible amount must not wrap around into a possible one.
func add(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}

func imbalance(found, total uint64) int64 {
	if found >= total {
		return int64(min(found-total, math.MaxInt64))
	}
	return -int64(min(total-found, math.MaxInt64))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00") }

func idText(id []byte) string { return hex.EncodeToString(id) }
