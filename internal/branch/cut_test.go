package branch_test

import (
	"testing"
	"time"

	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

func cutOf(peer string, d time.Duration) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Cut{
		Cut: &bankpb.Cut{Peer: peer, DurationUs: uint64(d.Microseconds())},
	}}
}

// untilLink polls a branch until its link with the other one of two is up, or down.
func (c *plainClient) untilLink(up bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}})
		if links := c.receive().GetStatus_().GetLinks(); len(links) == 1 && links[0].GetUp() == up {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the link is never up=%v", up)
		}
	}
}

// TestCutOnRequest: a link that is cut at either end stays down until its time is over, or a shorter cut
// replaces it; then it comes back by itself, and no cent is lost.
func TestCutOnRequest(t *testing.T) {
	t.Parallel()
	b := newBank(t, 2, time.Millisecond, link.Delay{})
	id := uint64(0)
	for at, peer := range []string{"branch2", "branch1"} { // who dials, and who is dialled
		c := b.clients[at]
		c.untilLink(true)
		c.send(cutOf(peer, link.MaxCut))
		if m := c.receive(); m.GetStatus_() == nil {
			t.Fatalf("a cut is answered with %v", m)
		}
		c.untilLink(false)
		b.clients[1-at].untilLink(false)
		c.send(cutOf(peer, time.Millisecond))
		c.receive()
		c.untilLink(true)
		id++
		b.initiate(at, id)
		b.retrieve(id)
	}
}

// TestCutRefused: who has not opened the bank or proved its key may not, and nobody for longer than a minute.
func TestCutRefused(t *testing.T) {
	t.Parallel()
	b := newBank(t, 2, time.Millisecond, link.Delay{})
	address := b.clients[0].nc.RemoteAddr().String()
	if _, m := admitted(t, address, cutOf("branch2", time.Millisecond)); m.GetError().GetCode() != bankpb.Error_DENIED {
		t.Errorf("stranger: got %v", m)
	}
	for name, test := range map[string]struct {
		m    *bankpb.BranchMessage
		code bankpb.Error_Code
	}{
		"too long": {cutOf("branch2", link.MaxCut+time.Millisecond), bankpb.Error_BAD_REQUEST},
		"self":     {cutOf("branch1", time.Millisecond), bankpb.Error_BAD_REQUEST},
		"unknown":  {cutOf("nobody", time.Millisecond), bankpb.Error_BAD_REQUEST},
	} {
		b.clients[0].send(test.m)
		if got := b.clients[0].receive().GetError(); got.GetCode() != test.code {
			t.Errorf("%s: got %v, want %v", name, got, test.code)
		}
	}
}
