package engine

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"cutbank/internal/ledger"
	"cutbank/internal/rules"
	"cutbank/internal/snapshot"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Open makes the branch part of a bank, or finds that it is in that bank already. Opened tells that
// this request did it. Error: another bank, or a plan that can't be.
func (e *Engine[P]) Open(self string, init *bankpb.InitBranch) (opened bool, err error) {
	if n := len(init.GetAllBranches()); n > ledger.MaxBranches {
		return false, fmt.Errorf("%d branches: a bank has 2 to %d", n, ledger.MaxBranches)
	}
	plan, addresses, err := planOf(self, init)
	if err != nil {
		return false, err
	}
	if init.GetPlan() == nil {
		plan.Broken = e.Broken
	}
	if e.Broken != rules.None && plan.Broken != e.Broken {
		return false, fmt.Errorf("%s was started with --break %s, and the bank is opened with %s", self, e.Broken, plan.Broken)
	}
	if e.Ledger.Opened() {
		held := e.Ledger.Plan()
		if held.BankID != plan.BankID || subtle.ConstantTimeCompare(held.Key, plan.Key) != 1 || !slices.Equal(held.Names, plan.Names) ||
			len(plan.Balances) != len(plan.Names) || init.GetPlan() != nil && held.Broken != plan.Broken ||
			held.Balances[e.Ledger.Self()] != plan.Balances[e.Ledger.Self()] {
			return false, fmt.Errorf("%s already belongs to bank %x; to leave it, stop it and start it without its data",
				self, held.BankID[:4])
		}
		return false, nil
	}
	out := &e.Filling.Output
	if err := e.Ledger.Open(out, plan, self, addresses); err != nil {
		return false, err
	}
	e.Ledger.Start(out)
	e.Begin()
	return true, nil
}

const keyBytes = 32

// planOf reads an InitBranch, of a plain client or of a controller of cutbank.
func planOf(self string, init *bankpb.InitBranch) (plan ledger.Plan, addresses []string, err error) {
	for _, b := range init.GetAllBranches() {
		plan.Names = append(plan.Names, b.GetName())
	}
	if addresses, err = AddressesOf(init.GetAllBranches()); err != nil {
		return plan, nil, err
	}
	p := init.GetPlan()
	if p == nil {
		h := sha256.New()
		for _, name := range plan.Names {
			fmt.Fprintf(h, "%q\n", name)
		}
		copy(plan.BankID[:], h.Sum(nil))
		plan.Balances = make([]uint64, len(plan.Names))
		if i := slices.Index(plan.Names, self); i >= 0 {
			plan.Balances[i] = init.GetBalance()
		}
		return plan, addresses, nil
	}
	if len(p.GetBankId()) != len(plan.BankID) || len(p.GetKey()) != keyBytes || p.GetTotal() == 0 {
		return plan, nil, errors.New("a plan has a bank id of 16 bytes, a key of 32 bytes and a total")
	}
	copy(plan.BankID[:], p.GetBankId())
	if plan.Broken, err = rules.Parse(p.GetBrokenRule()); err != nil {
		return plan, nil, err
	}
	plan.Key, plan.Total, plan.Balances, plan.LastSnapshotID = p.GetKey(), p.GetTotal(), p.GetBalances(), p.GetLastSnapshotId()
	for _, t := range p.GetInTransit() {
		plan.InTransit = append(plan.InTransit, ledger.InTransit{Src: int(t.GetSrc()), Dst: int(t.GetDst()), Money: t.GetMoney()})
	}
	return plan, addresses, nil
}

// AddressesOf lists the addresses of an InitBranch as host:port. Error: one that is none.
func AddressesOf(all []*bankpb.InitBranch_Branch) ([]string, error) {
	addresses := make([]string, 0, len(all))
	for _, b := range all {
		if b.GetPort() == 0 || b.GetPort() > 65535 || b.GetIp() == "" {
			return nil, fmt.Errorf("%q has no address: ip %q, port %d", b.GetName(), b.GetIp(), b.GetPort())
		}
		addresses = append(addresses, net.JoinHostPort(b.GetIp(), strconv.Itoa(int(b.GetPort()))))
	}
	return addresses, nil
}

// early is a snapshot that was asked for before the books were compared with all peers.
type early struct {
	from Client
	id   uint64
	at   int64
}

// Initiate starts a snapshot here, once the books are compared with every peer: what an old directory
// records could fit what its peers know of the newer one, and differ from what that one has told. It is
// answered only when it is refused.
func (e *Engine[P]) Initiate(c Client, id uint64, at int64) {
	code := bankpb.Error_SNAPSHOT_LIMIT
	var err error
	switch {
	case id == 0 || id > ledger.MaxMoney:
		code, err = bankpb.Error_BAD_REQUEST, fmt.Errorf("snapshot id %d is not between 1 and 2^53-1", id)
	case e.barrier == 0:
		err = e.Ledger.Initiate(&e.Filling.Output, id, at)
	case len(e.early) < ledger.MaxInProgress:
		e.early = append(e.early, early{c, id, at})
	default:
		err = fmt.Errorf("%d snapshots wait for the links to all branches", len(e.early))
	}
	if errors.Is(err, ledger.ErrExists) {
		code = bankpb.Error_SNAPSHOT_EXISTS
	}
	if err != nil {
		e.Answer(c, ErrorMessage(code, err.Error(), id))
	}
}

// Retrieve answers with the branch's part of a snapshot, as soon as it is complete.
func (e *Engine[P]) Retrieve(c Client, id uint64) {
	answer := e.part(id)
	switch {
	case answer != nil:
		e.Answer(c, answer)
	case e.waits >= MaxWaiting:
		e.Answer(c, ErrorMessage(bankpb.Error_SNAPSHOT_LIMIT, fmt.Sprintf("%d requests are waiting", e.waits), id))
	default:
		e.waiting[id] = append(e.waiting[id], c)
		e.waits++
	}
}

// part is the answer to a retrieve; nil: not yet.
func (e *Engine[P]) part(id uint64) *bankpb.BranchMessage {
	r, gone := e.Ledger.Snapshot(id)
	switch {
	case r != nil && r.Complete():
		return e.localSnapshot(r)
	case gone:
		return ErrorMessage(bankpb.Error_SNAPSHOT_GONE,
			fmt.Sprintf("snapshot %d is no longer kept: the last %d are", id, ledger.MaxDone), id)
	}
	return nil
}

// answerWaiting answers the retrieves that wait for a snapshot, if there is an answer now.
func (e *Engine[P]) answerWaiting(b *Batch[P], id uint64) {
	answer := e.part(id)
	if answer == nil {
		return
	}
	for _, c := range e.waiting[id] {
		b.replies = append(b.replies, reply{c, answer})
	}
	e.waits -= len(e.waiting[id])
	delete(e.waiting, id)
}

// Forget drops the waiting requests of a client that is gone.
func (e *Engine[P]) Forget(gone Client) {
	for id, list := range e.waiting {
		kept := slices.DeleteFunc(list, func(c Client) bool { return c == gone })
		e.waits -= len(list) - len(kept)
		if e.waiting[id] = kept; len(kept) == 0 {
			delete(e.waiting, id)
		}
	}
}

// Answer replies when everything that it tells of is durable.
func (e *Engine[P]) Answer(c Client, m *bankpb.BranchMessage) {
	e.Filling.replies = append(e.Filling.replies, reply{c, m})
}

// localSnapshot is a recording as the assignment's answer, with what the audit reads besides.
func (e *Engine[P]) localSnapshot(r *snapshot.Recording) *bankpb.BranchMessage {
	s := &bankpb.ReturnSnapshot_LocalSnapshot{
		SnapshotId: r.ID, Balance: r.Balance, Incarnation: r.Incarnation,
		RecordedAtUs: r.RecordedAt, CompletedAtUs: r.CompletedAt,
	}
	if r.FirstFrom != snapshot.Initiator {
		s.FirstMarkerFrom = e.Ledger.Plan().Names[r.FirstFrom]
	}
	for i := range r.Channels {
		if i == e.Ledger.Self() {
			continue
		}
		c := &r.Channels[i]
		s.ChannelState = append(s.ChannelState, c.State.Money)
		s.ChannelCount = append(s.ChannelCount, c.State.Count)
		s.SentMoney = append(s.SentMoney, c.Sent.Money)
		s.SentCount = append(s.SentCount, c.Sent.Count)
		s.ReceivedMoney = append(s.ReceivedMoney, c.Received.Money)
		s.ReceivedCount = append(s.ReceivedCount, c.Received.Count)
	}
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_ReturnSnapshot{
		ReturnSnapshot: &bankpb.ReturnSnapshot{LocalSnapshot: s},
	}}
}

// Status is the state of the branch as its controllers see it.
func (e *Engine[P]) Status() *bankpb.Status {
	l := e.Ledger
	s := &bankpb.Status{
		Incarnation: l.Incarnation(), Total: l.Plan().Total, Roster: l.Plan().Names, Balance: l.Balance(),
		LastSnapshotId: l.LastSnapshotID(), SnapshotsInProgress: uint32(l.SnapshotsInProgress()), //nolint:gosec // small
		Ready: e.Ready(), Share: l.Plan().Balances[l.Self()],
	}
	for i := range e.peers {
		if i == l.Self() {
			continue
		}
		sent, received := l.Flows(i)
		link := &bankpb.LinkStatus{
			Peer: l.Plan().Names[i], Up: e.peers[i].up,
			SentMoney: sent.Money, SentCount: sent.Count, ReceivedMoney: received.Money, ReceivedCount: received.Count,
			Unacknowledged: uint64(l.Unacknowledged(i)), //nolint:gosec // a length
		}
		if err := e.peers[i].refused; err != nil {
			link.Refused = wire.Short(err.Error())
		}
		s.Links = append(s.Links, link)
	}
	return s
}

// ErrorMessage is a refusal.
func ErrorMessage(code bankpb.Error_Code, text string, snapshotID uint64) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{
		Error: &bankpb.Error{Code: code, Message: wire.Short(text), SnapshotId: snapshotID},
	}}
}

// StatusMessage is a status as an answer.
func StatusMessage(s *bankpb.Status) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Status_{Status_: s}}
}
