package controller

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// deafConn takes everything and notices that it was closed.
type deafConn struct {
	net.Conn
	closed bool
}

func (c *deafConn) Write(b []byte) (int, error) { return len(b), nil }
func (c *deafConn) SetDeadline(time.Time) error { return nil }
func (c *deafConn) Close() error                { c.closed = true; return nil }
func status(s *bankpb.Status) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Status_{Status_: s}}
}

func answered(p *part) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_ReturnSnapshot{ReturnSnapshot: &bankpb.ReturnSnapshot{LocalSnapshot: p}}}
}

// fuzzedPlan is a bank of three that was opened.
func fuzzedPlan(r roster.Roster) Plan {
	p := NewPlan(r, 4000)
	p.BankID, p.Key, p.OpenedAt = strings.Repeat("11", bankIDBytes), strings.Repeat("22", keyBytes), stamp(time.Unix(0, 0))
	return p
}

func zeros(id, balance uint64) *part {
	zero := []uint64{0, 0}
	return &part{
		SnapshotId: id, Balance: balance, Incarnation: 1, ChannelState: zero, ChannelCount: zero,
		SentMoney: zero, SentCount: zero, ReceivedMoney: zero, ReceivedCount: zero,
	}
}

// FuzzAnswers lets the first of three branches answer a controller with arbitrary bytes, while the bank is
// being resumed and while a snapshot waits for it. Nothing may panic; a snapshot that is called consistent
// has all the money; and what people are shown is of characters that a terminal prints.
func FuzzAnswers(f *testing.F) {
	r := roster.Roster{File: "branches.txt"}
	for i, name := range []string{"a", "b", "c"} {
		r.Branches = append(r.Branches, roster.Branch{Name: name, Host: "127.0.0.1", Port: uint16(1 + i), Line: 1 + i})
	}
	dir, plan := f.TempDir(), fuzzedPlan(r)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err = errors.Join(err, writePlan(dir, plan)); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = null.Close() })
	nonce := make([]byte, nonceBytes)
	fact := &bankpb.Challenge{
		Version: link.Version, Name: "a", Open: true, Keyed: true, Durable: true, BankId: plan.id(), Nonce: nonce,
		Mac: link.BranchMAC(plan.key(), nonce, nonce, plan.id(), "a"),
	}
	challenge := wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Challenge{Challenge: fact}})
	whole := wire.Append(slices.Clone(challenge), status(&bankpb.Status{Total: 4000, Roster: plan.Names(), Ready: true, Share: plan.Branches[0].Balance}))
	f.Add(true, wire.Append(slices.Clone(whole), answered(zeros(1, plan.Branches[0].Balance))))
	f.Add(false, wire.Append(slices.Clone(whole), answered(zeros(1, 7))))
	f.Add(true, wire.Append(slices.Clone(whole), &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{
		Error: &bankpb.Error{Code: bankpb.Error_SNAPSHOT_LIMIT, SnapshotId: 1, Message: "\x1b[2J"},
	}}))
	f.Add(false, wire.Append(slices.Clone(challenge), status(&bankpb.Status{Total: 4000, Roster: []string{"a", "b", "\x1b[2J"}})))
	f.Add(false, wire.Append(slices.Clone(challenge), status(&bankpb.Status{Total: 4000, Roster: plan.Names(), Links: []*bankpb.LinkStatus{{Peer: "\x1b[2J"}}})))
	f.Fuzz(func(t *testing.T, ready bool, b []byte) {
		var shown bytes.Buffer
		out := &Output{Verbose: true, stdout: &shown, stderr: &shown}
		c, err := New(Config{Roster: r, Total: 4000, DataDir: dir, Seed: 1, OnEvent: func(e Event) {
			out.Event(e)
			if e, ok := e.(SnapshotComplete); ok {
				checkMoney(t, e.Record)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		c.history = null
		for i, p := range c.peers[1:] {
			p.session = &session{conn: &deafConn{}, out: make(chan *bankpb.BranchMessage, maxQueued)}
			p.fact, p.asked, p.proved, p.reason = &bankpb.Challenge{Open: true, Keyed: true, BankId: plan.id()}, true, true, ""
			p.status = &bankpb.Status{Total: 4000, Roster: plan.Names(), Ready: true, Share: plan.Branches[1+i].Balance}
		}
		if ready {
			c.phase, c.id = running, plan.id()
			c.startSnapshot(nil)
			for i, p := range c.peers[1:] {
				c.onPart(p, zeros(1, plan.Branches[1+i].Balance))
			}
		}
		answer(c, nonce, b)
		if c.err != nil {
			shown.WriteString(c.err.Error())
		}
		shown.WriteString(c.waiting(time.Now()).String())
		for _, r := range shown.String() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("people are shown %q", &shown)
			}
		}
	})
}

// answer is a connection to the first branch, as serve handles it.
func answer(c *Controller, nonce, b []byte) {
	p, conn := c.peers[0], &deafConn{}
	s := &session{conn: conn, nonce: nonce, out: make(chan *bankpb.BranchMessage, maxQueued)}
	r := wire.NewReader(bytes.NewReader(b), wire.MaxRosterFrame)
	challenge, err := attach(s, r)
	if err == nil {
		c.onChallenge(p, s, challenge)
	}
	for err == nil && !conn.closed && c.err == nil {
		var m *bankpb.BranchMessage
		if m, err = r.NextMessage(); err == nil {
			clean(m)
			c.onMessage(p, s, m)
		}
	}
	if err == nil {
		err = net.ErrClosed
	}
	c.onDisconnect(p, err)
}

// checkMoney adds a record up by itself.
func checkMoney(t *testing.T, r Record) {
	t.Helper()
	left, enough := r.Total, true
	take := func(n uint64) { enough, left = enough && n <= left, left-n }
	for _, b := range r.Branches {
		take(b.Balance)
	}
	for _, c := range r.Channels {
		take(c.Amount)
	}
	if r.Status == Consistent && (!enough || left != 0) {
		t.Errorf("called consistent: %+v", r)
	}
}
