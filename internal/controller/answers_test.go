package controller

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// desk is a controller in virtual time whose loop is the test.
type desk struct {
	*Controller
	said bytes.Buffer
}

// atDesk is a controller of two branches, to which nothing is connected yet.
func atDesk(t *testing.T, f func(*desk)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		r := roster.Roster{File: "branches.txt"}
		for i, name := range []string{"a", "b"} {
			r.Branches = append(r.Branches, roster.Branch{Name: name, Host: "127.0.0.1", Port: uint16(9001 + i), Line: i + 1})
		}
		var err error
		d.Controller, err = New(Config{
			Roster: r, Total: 4000, DataDir: t.TempDir(), StopTransfers: true, Wait: time.Hour,
			Logger: hclog.New(&hclog.LoggerOptions{Output: &d.said}),
		})
		if err != nil {
			t.Fatal(err)
		}
		d.start, d.ticked = time.Now(), time.Now()
		d.peers[0].since, d.peers[1].since = d.start, d.start
		f(d)
	})
}

// attach is a new connection to a branch.
func (d *desk) attach(i int, open bool) {
	ours, _ := net.Pipe()
	c := &bankpb.Challenge{Version: link.Version, Name: d.names[i], Durable: true, Open: open}
	if open {
		c.BankId, c.Keyed = d.bank.id(), true
		c.Mac = link.BranchMAC(d.bank.key(), nil, nil, c.GetBankId(), c.GetName())
	}
	d.onChallenge(d.peers[i], &session{conn: ours, out: make(chan *bankpb.BranchMessage, maxQueued)}, c)
}

// answer is the status that a branch answers with.
func (d *desk) answer(i int) {
	d.onMessage(d.peers[i], d.peers[i].session, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Status_{
		Status_: &bankpb.Status{Total: 4000, Roster: d.names, Share: 2000, Ready: true},
	}})
}

// open opens both; each is left with an answer to owe, to the settings.
func (d *desk) open(t *testing.T) {
	t.Helper()
	for i := range d.peers {
		d.attach(i, false)
	}
	d.answer(0)
	d.answer(1)
	if d.phase != running || d.peers[0].unanswered != 1 || d.peers[1].unanswered != 1 {
		t.Fatalf("phase %d, %d and %d answers are owed", d.phase, d.peers[0].unanswered, d.peers[1].unanswered)
	}
}

// pass is time in which the loop runs.
func (d *desk) pass(t time.Duration) {
	for end := time.Now().Add(t); time.Now().Before(end); {
		time.Sleep(tickEvery)
		d.onTick(time.Now())
	}
}

const patience = pollTimeout + 2*100*time.Millisecond // with two branches

// TestOwnLateness: a controller that was stopped for a minute gives no branch up for that; one that is silent
// for as long while it runs, it does.
func TestOwnLateness(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.open(t)
		for range 5 {
			time.Sleep(time.Minute)
			d.pass(time.Second)
		}
		if d.peers[0].reason != "" || d.peers[1].reason != "" {
			t.Errorf("given up: %q, %q", d.peers[0].reason, d.peers[1].reason)
		}
		time.Sleep(time.Minute)
		d.answer(0) // before the loop's next tick: no time is added to that
		d.answer(1)
		d.peers[1].ask(getStatus(nil))
		for left := patience; left > 0; left -= time.Second {
			d.pass(time.Second)
			d.answer(0)
		}
		if d.peers[0].reason != "" || d.peers[1].reason != "no answer" {
			t.Errorf("%q, %q; only the second is silent", d.peers[0].reason, d.peers[1].reason)
		}
	})
}

// TestWaitingForAnswers: a branch that is attached is not ready before it is open, and the line says what it
// waits for. Before all are attached it only waits for the others.
func TestWaitingForAnswers(t *testing.T) {
	atDesk(t, func(d *desk) {
		see := func(want string) {
			t.Helper()
			if got := d.waiting(time.Now()).String(); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		}
		d.attach(0, false)
		see("waiting for branches 1/2 (b 127.0.0.1:9002 connecting, 0s)")
		d.attach(1, false)
		time.Sleep(3 * time.Second)
		see("waiting for branches 0/2 (a 127.0.0.1:9001 no answer to InitBranch yet, 3s; b 127.0.0.1:9002 waits for its turn to be opened, 3s)")
		d.answer(0)
		time.Sleep(time.Second)
		see("waiting for branches 1/2 (b 127.0.0.1:9002 no answer to InitBranch yet, 1s)")
		d.onDisconnect(d.peers[1], net.ErrClosed)
		see("waiting for branches 1/2 (b 127.0.0.1:9002 closed the connection, 0s)")
		d.attach(1, true)
		see("waiting for branches 1/2 (b 127.0.0.1:9002 no answer to Prove yet, 0s)")
	})
}

// TestUnansweredOpening: who answers neither InitBranch nor Prove is named, given up and asked again.
func TestUnansweredOpening(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.attach(0, false)
		d.attach(1, false)
		d.answer(0)
		d.answer(0) // to the settings
		for _, want := range []string{"no answer to InitBranch", "no answer to Prove"} {
			d.pass(patience - time.Second)
			if reason := d.peers[1].reason; reason != "" {
				t.Fatalf("given up early: %s", reason)
			}
			d.pass(2 * time.Second)
			said := d.said.String()
			if d.peers[1].reason != want || strings.Count(said, want) != 1 || !strings.Contains(said, "branch=b address=127.0.0.1:9002") {
				t.Fatalf("reason %q, said %q", d.peers[1].reason, said)
			}
			d.onDisconnect(d.peers[1], net.ErrClosed)
			d.attach(1, true)
		}
		if d.answer(1); d.phase != running {
			t.Errorf("phase %d", d.phase)
		}
	})
}

// TestRefusedIsSaidOnce: who is no branch of this bank is dialled again and again, and the log says so once.
func TestRefusedIsSaidOnce(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.open(t)
		refused := func() {
			d.onDisconnect(d.peers[1], net.ErrClosed)
			d.attach(1, false)
		}
		refused()
		refused()
		if n := strings.Count(d.said.String(), "branch refused"); n != 1 {
			t.Errorf("said %d times: %s", n, &d.said)
		}
		d.onDisconnect(d.peers[1], net.ErrClosed)
		d.attach(1, true)
		d.answer(1)
		refused()
		if n := strings.Count(d.said.String(), "branch refused"); n != 2 {
			t.Errorf("said %d times: %s", n, &d.said)
		}
	})
}

// TestDrainWaitsForItsOwnQuestion: an answer to what was asked before the drain does not end it.
func TestDrainWaitsForItsOwnQuestion(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.open(t)
		d.answer(0)
		d.drain()
		d.answer(0)
		d.answer(1)
		if d.drained() {
			t.Error("the second has not answered what the drain asked")
		}
		d.answer(1)
		if !d.drained() {
			t.Error("both have answered")
		}
	})
}
