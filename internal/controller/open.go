package controller

import (
	"bytes"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"time"

	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

// onChallenge is the start of every session: the branch has said what it is.
func (c *Controller) onChallenge(p *peer, s *session, challenge *bankpb.Challenge) {
	p.session, p.fact = s, challenge
	p.reason, p.since = "", time.Now()
	switch {
	case challenge.GetVersion() != link.Version:
		c.refuse(p, fmt.Errorf("speaks version %d of the protocol, this controller %d: use one version of cutbank",
			challenge.GetVersion(), link.Version))
	case challenge.GetName() != p.branch.Name:
		c.refuse(p, fmt.Errorf("is %q: edit %s line %d", challenge.GetName(), c.cfg.Roster.File, p.branch.Line))
	default:
		c.advance()
	}
	c.publish()
}

func (c *Controller) onDisconnect(p *peer, err error) {
	was := p.proved
	if p.session != nil || p.reason == "" || p.reason == connecting {
		p.since = time.Now()
	}
	if p.session != nil && p.reason != "" {
		err = errors.New(p.reason) // we closed it, and know why
	}
	p.session, p.asked, p.proved, p.unanswered = nil, false, false, 0
	p.reason = reasonOf(err)
	if was {
		c.emit(BranchDown{p.branch.Name, p.branch.Addr(), p.reason})
	}
	c.publish()
}

// drop ends a session for a reason; the branch is dialled again.
func (c *Controller) drop(p *peer, reason string) {
	p.reason, p.since, p.unanswered = reason, time.Now(), 0
	p.session.conn.Close()
}

// refuse is a branch that this bank can't use: the end at the start, a branch that is down later.
func (c *Controller) refuse(p *peer, err error) {
	if c.phase == opening {
		c.fail(&UsageError{fmt.Errorf("%s (%s) %w", p.branch.Name, p.branch.Addr(), err)})
		return
	}
	if p.refused != err.Error() { // it is dialled twice a second
		p.refused = err.Error()
		c.cfg.Logger.Warn("branch refused", "branch", p.branch.Name, "address", p.branch.Addr(), "reason", err)
	}
	c.drop(p, err.Error())
}

// advance does what the challenges that are there allow.
func (c *Controller) advance() {
	for _, p := range c.peers {
		if p.session != nil && !p.asked && p.fact.GetOpen() && c.err == nil {
			c.prove(p)
		}
	}
	if c.err != nil {
		return
	}
	if c.phase == opening {
		c.advanceOpening()
		return
	}
	for _, p := range c.peers {
		if p.session != nil && !p.asked && !p.fact.GetOpen() {
			p.asked = true
			if err := c.lost([]*peer{p}); p.fact.GetDurable() {
				c.refuse(p, err)
			} else {
				c.fail(err)
			}
		}
	}
}

// advanceOpening opens the branches that are not, once all have said whether they are.
func (c *Controller) advanceOpening() {
	var unopened []*peer
	proved := 0
	for _, p := range c.peers {
		switch {
		case p.fact == nil:
			return
		case !p.fact.GetOpen():
			unopened = append(unopened, p)
		case p.proved:
			proved++
		}
	}
	switch {
	case len(unopened) == 0:
		if proved == len(c.peers) {
			c.opened()
		}
	case c.plain:
		for _, p := range unopened {
			p.reason = "not opened yet by the client that opened the others"
		}
	case !c.plan(unopened):
	case !c.peers[0].fact.GetOpen():
		c.propose(c.peers[0]) // the plan that it holds is the one of the bank
	default:
		// A few at a time, in the order of the roster: a branch dials those before it, which are open by then.
		for _, p := range unopened[:min(len(unopened), maxOpening)] {
			c.propose(p)
		}
	}
}

// plan makes sure that there is one on disk that may be proposed to these branches.
func (c *Controller) plan(unopened []*peer) bool {
	replaced := ""
	if c.bank != nil {
		if !c.wasOpen {
			return true
		}
		durable := func(p *peer) bool { return p.fact.GetDurable() }
		if slices.ContainsFunc(unopened, durable) || len(unopened) < len(c.peers) {
			c.fail(c.lost(unopened))
			return false
		}
		replaced = c.bank.BankID // all branches kept their books in memory, and ended with it
	}
	p := NewPlan(c.cfg.Roster, c.cfg.Total)
	if c.cfg.Restore != nil {
		p = *c.cfg.Restore
		if err := c.checkBank(p.Total, p.Names()); err != nil {
			c.fail(&UsageError{fmt.Errorf("the snapshot to restore %w", err)})
			return false
		}
	}
	p.LastSnapshotID = max(p.LastSnapshotID, c.highest)
	p.BrokenRule = c.cfg.BrokenRule
	holds, aside, err := createPlan(c.cfg.DataDir, p, replaced)
	if err != nil {
		c.fail(err)
		return false
	}
	if err := c.checkBank(holds.Total, holds.Names()); err != nil {
		c.fail(&UsageError{fmt.Errorf("the data directory %s %w", c.cfg.DataDir, err)})
		return false
	}
	c.bank, c.aside, c.wasOpen = holds, aside, false
	c.highest = max(c.highest, holds.LastSnapshotID)
	return true
}

// lost says that branches of an open bank came back empty.
func (c *Controller) lost(empty []*peer) error {
	var disks, books []string
	for _, p := range empty {
		if p.fact.GetDurable() {
			disks = append(disks, p.branch.Name)
		} else {
			books = append(books, p.branch.Name)
		}
	}
	if len(disks) > 0 {
		return fmt.Errorf("%s has an empty data directory, but its bank was opened: its disk is lost and it can't rejoin; "+
			"put its directory back, or open a new bank from the last snapshot with ./launcher --restore ID", listed(disks))
	}
	return fmt.Errorf("%s kept its books in memory and has lost them: stop all branches and start them again for a new bank "+
		"(./branch with --data-dir, and ./launcher, keep their books on disk)", listed(books))
}

// propose sends the plan to a branch that belongs to no bank.
func (c *Controller) propose(p *peer) {
	if p.session == nil || p.asked {
		return
	}
	p.asked = true
	p.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{
		Balance: c.bank.Branches[p.index].Balance, AllBranches: c.addresses(), Plan: c.bank.proto(),
	}}})
}

// prove answers the challenge of a branch that is open.
func (c *Controller) prove(p *peer) {
	prove := &bankpb.Prove{Settings: c.cfg.Settings.proto(), AllBranches: c.addresses()}
	id, name := p.fact.GetBankId(), p.branch.Name
	known := c.knows(id)
	switch {
	case c.phase != opening && !bytes.Equal(id, c.id), p.fact.GetKeyed() && !known:
		c.refuse(p, fmt.Errorf("belongs to another bank, %s, whose key is not in %s: %s", idText(id), c.cfg.DataDir, c.cfg.Remedy))
		return
	case known:
		key := c.bank.key()
		if !hmac.Equal(p.fact.GetMac(), link.BranchMAC(key, p.session.nonce, p.fact.GetNonce(), id, name)) {
			c.refuse(p, fmt.Errorf("does not prove the key of the bank %s: it is an impostor, or another bank's: %s",
				c.bank.BankID, c.cfg.Remedy))
			return
		}
		prove.Mac = link.ControllerMAC(key, p.session.nonce, p.fact.GetNonce(), id, name)
	default:
		c.plain = true
	}
	p.asked = true
	p.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Prove{Prove: prove}})
}

// knows tells whether the plan of that bank is in the directory; another controller that shares it
// may have put it there since we looked.
func (c *Controller) knows(id []byte) bool {
	if c.bank != nil && bytes.Equal(c.bank.id(), id) {
		return true
	}
	if c.phase != opening {
		return false
	}
	held, err := ReadPlan(c.cfg.DataDir)
	if err != nil || held == nil || !bytes.Equal(held.id(), id) {
		return false
	}
	c.bank = held
	return true
}

func (c *Controller) addresses() []*bankpb.InitBranch_Branch {
	all := make([]*bankpb.InitBranch_Branch, len(c.peers))
	for i, p := range c.peers {
		all[i] = &bankpb.InitBranch_Branch{Name: p.branch.Name, Ip: p.branch.Host, Port: uint32(p.branch.Port)}
	}
	return all
}

// onMessage takes what a branch answers.
func (c *Controller) onMessage(p *peer, s *session, m *bankpb.BranchMessage) {
	if p.session != s {
		return
	}
	switch body := m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_Status_:
		c.onStatus(p, body.Status_)
	case *bankpb.BranchMessage_ReturnSnapshot:
		c.onPart(p, body.ReturnSnapshot.GetLocalSnapshot())
	case *bankpb.BranchMessage_Error:
		c.onError(p, body.Error)
	default:
		c.drop(p, "does not answer as a branch of cutbank")
	}
}

func (c *Controller) onError(p *peer, e *bankpb.Error) {
	if id := e.GetSnapshotId(); id != 0 {
		c.onSnapshotError(p, id, e)
		return
	}
	p.answered()
	switch e.GetCode() {
	case bankpb.Error_OTHER_BANK, bankpb.Error_DENIED, bankpb.Error_VERSION, bankpb.Error_BAD_REQUEST:
		if !p.proved {
			c.refuse(p, fmt.Errorf("refuses this controller: %s: %s", e.GetMessage(), c.cfg.Remedy))
			return
		}
	default:
	}
	c.cfg.Logger.Warn("request refused", "branch", p.branch.Name, "code", e.GetCode(), "message", e.GetMessage())
	if !p.proved {
		c.drop(p, "refuses this controller: "+e.GetMessage())
	}
}

func (c *Controller) onStatus(p *peer, s *bankpb.Status) {
	first := !p.proved
	if first && !p.asked {
		c.drop(p, "does not answer as a branch of cutbank")
		return
	}
	p.status, p.statusAt = s, time.Now()
	p.answered()
	if p.began == nil {
		p.began = s
	}
	c.highest = max(c.highest, s.GetLastSnapshotId())
	if first {
		total := s.GetTotal()
		if c.plain {
			total = c.cfg.Total // known only when all shares are
		}
		if err := c.checkBank(total, s.GetRoster()); err != nil {
			c.refuse(p, err)
			return
		}
		if !p.fact.GetOpen() { // it was opened by our plan, which carries no settings
			p.fact.Open, p.fact.Keyed, p.fact.BankId = true, true, c.bank.id()
			p.ask(getStatus(c.cfg.Settings.proto()))
		}
		p.proved, p.reason, p.refused, p.since = true, "", "", time.Now()
		c.emit(BranchUp{p.branch.Name, p.branch.Addr(), s.GetIncarnation()})
		c.repeat(p)
		c.advance()
	}
	c.publish()
	if c.phase == linking && c.allReady() {
		c.onReady()
	}
}

func (c *Controller) allReady() bool {
	return !slices.ContainsFunc(c.peers, func(p *peer) bool { return !p.proved || !p.status.GetReady() })
}

// opened is called when every branch has proved that it holds this bank.
func (c *Controller) opened() {
	var shares uint64
	for _, p := range c.peers {
		shares = add(shares, p.status.GetShare())
		if !bytes.Equal(p.fact.GetBankId(), c.peers[0].fact.GetBankId()) {
			c.refuse(p, fmt.Errorf("belongs to another bank than %s: %s", c.names[0], c.cfg.Remedy))
			return
		}
	}
	if c.plain {
		if err := c.checkBank(shares, c.names); err != nil {
			c.refuse(c.peers[0], err)
			return
		}
	} else if err := markOpened(c.cfg.DataDir, c.bank); err != nil {
		c.fail(err)
		return
	}
	c.phase, c.id = linking, c.peers[0].fact.GetBankId()
	n, id := len(c.peers), idText(c.id)
	if c.plain || c.wasOpen {
		c.emit(Resumed{id, c.cfg.Total, n, !c.plain, c.highest})
	} else {
		c.emit(Opened{id, c.cfg.Total, n, !c.plain, c.aside, c.bank.RestoredFrom})
	}
}

func (c *Controller) onReady() {
	c.phase, c.ready = running, time.Now()
	first := min(firstAfter, c.cfg.SnapshotInterval)
	c.next = c.ready.Add(first)
	c.emit(Ready{first, c.cfg.SnapshotInterval})
	c.publish()
}
