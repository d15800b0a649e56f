package branch_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"cutbank/internal/branch"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// hostile is a message of every kind that would change something if it were taken.
func hostile() map[string]*bankpb.BranchMessage {
	nonce, key := make([]byte, 16), bytes.Repeat([]byte{9}, 32)
	zero, stopped := uint64(0), true
	all := []*bankpb.InitBranch_Branch{{Name: "branch1", Ip: "127.0.0.1", Port: 7}, {Name: "branch2", Ip: "127.0.0.1", Port: 7}}
	return map[string]*bankpb.BranchMessage{
		"init_branch": {BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{Balance: 5, AllBranches: all, Plan: &bankpb.Plan{
			BankId: nonce, Key: key, Total: 10, Balances: []uint64{5, 4},
		}}}},
		"transfer":          {BranchMessage: &bankpb.BranchMessage_Transfer{Transfer: &bankpb.Transfer{Money: 100}}},
		"init_snapshot":     {BranchMessage: &bankpb.BranchMessage_InitSnapshot{InitSnapshot: &bankpb.InitSnapshot{SnapshotId: 7}}},
		"marker":            {BranchMessage: &bankpb.BranchMessage_Marker{Marker: &bankpb.Marker{SnapshotId: 7}}},
		"retrieve_snapshot": {BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: 7}}},
		"return_snapshot":   {BranchMessage: &bankpb.BranchMessage_ReturnSnapshot{ReturnSnapshot: &bankpb.ReturnSnapshot{}}},
		"hello":             hello("branch2", "branch1"),
		"proof":             {BranchMessage: &bankpb.BranchMessage_Proof{Proof: &bankpb.Proof{Mac: key}}},
		"position":          {BranchMessage: &bankpb.BranchMessage_Position{Position: &bankpb.Position{Sent: 5}}},
		"ready":             {BranchMessage: &bankpb.BranchMessage_Ready{Ready: &bankpb.Ready{}}},
		"ack":               {BranchMessage: &bankpb.BranchMessage_Ack{Ack: &bankpb.Ack{Received: 1}}},
		"agreed":            {BranchMessage: &bankpb.BranchMessage_Agreed{Agreed: &bankpb.Agreed{}}},
		"attach":            {BranchMessage: &bankpb.BranchMessage_Attach{Attach: &bankpb.Attach{Version: link.Version, Nonce: nonce}}},
		"challenge":         {BranchMessage: &bankpb.BranchMessage_Challenge{Challenge: &bankpb.Challenge{Version: link.Version, Nonce: nonce}}},
		"prove":             {BranchMessage: &bankpb.BranchMessage_Prove{Prove: &bankpb.Prove{Mac: key, AllBranches: all, Settings: &bankpb.Settings{IntervalUs: &zero}}}},
		"get_status":        {BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{Settings: &bankpb.Settings{Stopped: &stopped}}}},
		"status":            {BranchMessage: &bankpb.BranchMessage_Status_{Status_: &bankpb.Status{Balance: 9}}},
		"cut":               {BranchMessage: &bankpb.BranchMessage_Cut{Cut: &bankpb.Cut{Peer: "branch2", DurationUs: 1000}}},
		"error":             {BranchMessage: &bankpb.BranchMessage_Error{Error: &bankpb.Error{Message: "\x1b[31mforged\n"}}},
	}
}

func kind(m *bankpb.BranchMessage) string {
	r := m.ProtoReflect()
	if f := r.WhichOneof(r.Descriptor().Oneofs().Get(0)); f != nil {
		return string(f.Name())
	}
	return ""
}

// lone is branch1 of a bank of two, in virtual time. Its branch2 is the test.
type lone struct {
	t          *testing.T
	pipes      *pipes
	log        *lines
	key, bank  []byte
	controller *plainClient  // has opened it; nil: nobody has
	tape       *bytes.Buffer // keeps what is said to it by who dials it; nil: nothing does
}

// taped is the end of a connection of which is kept what it says.
type taped struct {
	net.Conn
	tape *bytes.Buffer
}

func (c taped) Write(b []byte) (int, error) {
	c.tape.Write(b)
	return c.Conn.Write(b)
}

func (l *lone) dial() *plainClient {
	l.t.Helper()
	nc := l.pipes.dial("192.0.2.1")
	if l.tape != nil {
		nc = taped{nc, l.tape}
	}
	l.t.Cleanup(func() { _ = nc.Close() })
	return &plainClient{l.t, nc, wire.NewReader(nc, wire.MaxFrame)}
}

func newLone(t *testing.T, open, keyed bool) *lone {
	t.Helper()
	l := &lone{t: t, pipes: newPipes()}
	_, l.log = startBranch(t, "branch1", func(c *branch.Config) { c.Listener = l.pipes })
	if !open {
		return l
	}
	l.controller = l.dial()
	init := &bankpb.InitBranch{Balance: 1000, AllBranches: []*bankpb.InitBranch_Branch{
		{Name: "branch1", Ip: "127.0.0.1", Port: 1}, {Name: "branch2", Ip: "127.0.0.1", Port: 1},
	}}
	l.bank = bankID("branch1", "branch2")
	if keyed {
		l.key, l.bank = make([]byte, 32), make([]byte, 16)
		_, _ = rand.Read(l.key)
		_, _ = rand.Read(l.bank)
		init.Plan = &bankpb.Plan{BankId: l.bank, Key: l.key, Total: 2000, Balances: []uint64{1000, 1000}}
	}
	l.controller.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: init}})
	if keyed {
		l.controller.receive()
	}
	return l
}

// link is a proved connection as branch2.
func (l *lone) link() *plainClient {
	l.t.Helper()
	c := l.dial()
	id := &link.Identity{Bank: ledger.BankID(l.bank), Key: l.key, Names: []string{"branch1", "branch2"}, Self: 1, Incarnation: 1}
	if err := id.Dial(c.nc, c.r, 0); err != nil {
		l.t.Fatal(err)
	}
	if got := c.receive(); kind(got) != "position" {
		l.t.Fatalf("after the proof: %v", got)
	}
	return c
}

// attached is a proved controller.
func (l *lone) attached() *plainClient {
	l.t.Helper()
	c, nonce := l.dial(), make([]byte, 16)
	c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: &bankpb.Attach{Version: link.Version, Nonce: nonce}}})
	mac := link.ControllerMAC(l.key, nonce, c.receive().GetChallenge().GetNonce(), l.bank, "branch1")
	c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Prove{Prove: &bankpb.Prove{Mac: mac}}})
	if got := c.receive(); kind(got) != "status" {
		l.t.Errorf("the controller is not taken: %v", got)
	}
	return c
}

// books is what no refused message may change.
func (l *lone) books() *bankpb.Status {
	l.t.Helper()
	l.controller.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}})
	s := l.controller.receive().GetStatus_()
	if s == nil {
		l.t.Fatal("no status")
	}
	s.Journal, s.Ready = nil, false
	for _, link := range s.GetLinks() {
		link.Up, link.Refused = false, ""
	}
	return s
}

// answer is the kind of the next message, "closed", or "nothing" when a status is answered first.
func (c *plainClient) answer() string {
	_ = c.nc.SetReadDeadline(time.Now().Add(time.Minute))
	m, err := c.r.NextMessage()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Error("neither answered nor closed")
		}
		return "closed"
	}
	return kind(m)
}

// TestEveryKind: each message is taken from whom it belongs to and from nobody else. What is refused
// changes nothing, is answered with an error where the protocol has one, and logged.
func TestEveryKind(t *testing.T) {
	t.Parallel()
	messages := hostile()
	fields := (&bankpb.BranchMessage{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); messages[name] == nil {
			t.Errorf("nobody has tried a %s", name)
		}
	}
	for sender, test := range map[string]struct {
		open, keyed bool
		connect     func(*lone) *plainClient
		refused     string            // the answer to what is refused
		logged      string            // and a part of its line
		taken       map[string]string // kinds that are taken, with their answers; "": none, or not to be tried
	}{
		"stranger":                   {true, true, (*lone).dial, "error", "refused", map[string]string{"hello": "error", "attach": "challenge"}},
		"stranger, branch not open":  {false, false, (*lone).dial, "error", "refused", map[string]string{"attach": "challenge", "hello": "error"}},
		"client of a plain bank":     {true, false, (*lone).dial, "error", "refused", map[string]string{"init_snapshot": "", "retrieve_snapshot": "", "get_status": "status", "hello": "error", "attach": "challenge", "prove": ""}},
		"proved controller":          {true, true, (*lone).attached, "error", "refused", map[string]string{"init_snapshot": "", "retrieve_snapshot": "", "get_status": "status", "prove": "", "cut": "status"}},
		"link before its position":   {true, true, (*lone).link, "closed", "link broken", map[string]string{"position": "", "ready": "", "agreed": "", "error": "closed"}},
		"link that is ready to work": {true, true, agreedLink, "closed", "link broken", map[string]string{"transfer": "", "marker": "", "ready": "", "agreed": "", "error": "closed"}},
	} {
		t.Run(sender, func(t *testing.T) {
			t.Parallel()
			for name, m := range messages {
				want, taken := test.taken[name]
				if taken && want == "" {
					continue
				}
				if !taken {
					want = test.refused
				}
				synctest.Test(t, func(t *testing.T) {
					l := newLone(t, test.open, test.keyed)
					var before *bankpb.Status
					if l.controller != nil {
						before = l.books()
					}
					c := test.connect(l)
					c.send(m)
					if got := c.answer(); got != want {
						t.Errorf("%s is answered with %s, not with %s", name, got, want)
					}
					if !taken {
						l.log.await(t, test.logged)
					}
					if strings.Contains(l.log.String(), "\x1b") {
						t.Errorf("%s: escapes in the log: %q", name, l.log)
					}
					if before != nil {
						if after := l.books(); !proto.Equal(before, after) {
							t.Errorf("%s changed %v\nto %v", name, before, after)
						}
					}
				})
			}
		})
	}
}

// agreedLink is a link that both ends have found to fit.
func agreedLink(l *lone) *plainClient {
	c := l.link()
	c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Position{Position: &bankpb.Position{}}})
	if got := c.receive(); kind(got) != "agreed" {
		l.t.Fatalf("after the position: %v", got)
	}
	c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Agreed{Agreed: &bankpb.Agreed{}}})
	if got := c.receive(); kind(got) != "ready" {
		l.t.Fatalf("when both agree: %v", got)
	}
	return c
}

// TestRefusedAndAskedMore: a client that is refused hears why, also when it has sent its next requests already.
func TestRefusedAndAskedMore(t *testing.T) {
	t.Parallel()
	for range 20 { // half of them were closed first
		synctest.Test(t, func(t *testing.T) {
			c := newLone(t, true, true).dial()
			if m, err := c.ask(hostile()["init_snapshot"], hostile()["retrieve_snapshot"], statusRequest()); m.GetError().GetCode() != bankpb.Error_DENIED {
				t.Errorf("%v, %v", m, err)
			}
		})
	}
}

// TestReplay: the bytes of a real link and of a real controller open nothing a second time.
func TestReplay(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(*lone) *plainClient{
		"link": agreedLink, "controller": (*lone).attached,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLone(t, true, true)
			before := l.books()
			l.tape = &bytes.Buffer{}
			_ = connect(l).nc.Close()
			said := l.tape.Bytes()
			l.tape = nil
			c := l.dial()
			go func() { _, _ = c.nc.Write(said) }()
			answers := []string{c.answer(), c.answer()}
			if answers[1] != "error" {
				t.Errorf("a replayed %s is answered with %v", name, answers)
			}
			l.log.await(t, "does not have the key of this bank")
			if after := l.books(); !proto.Equal(before, after) {
				t.Errorf("changed %v\nto %v", before, after)
			}
		})
	}
}

// record is a proxy for one connection that keeps what the dialler sends.
func record(t *testing.T, target string, address *string) <-chan []byte {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	*address = listener.Addr().String()
	recorded := make(chan []byte, 1)
	go func() {
		defer func() { _ = listener.Close() }()
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(near, far) }()
		var kept bytes.Buffer
		_, _ = io.Copy(far, io.TeeReader(near, &kept))
		_, _ = near.Close(), far.Close()
		recorded <- kept.Bytes()
	}()
	return recorded
}
