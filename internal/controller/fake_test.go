package controller_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"cutbank/internal/controller"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// fakeBank is branches that speak the controller's protocol and move no money: a snapshot exists at
// all of them as soon as one was asked for it.
type fakeBank struct {
	tb       testing.TB
	mu       sync.Mutex
	branches []*fakeBranch
	started  map[uint64]string // initiator by snapshot
	waiting  []func()          // answers that wait for a snapshot to exist
	proposed []string          // in order: who was sent a plan
	ahead    int               // the most branches before it that had none then
	cuts     []string
}

type fakeBranch struct {
	bank     *fakeBank
	name     string
	index    int
	listener net.Listener
	conns    map[net.Conn]bool
	down     bool

	plan        *bankpb.Plan
	roster      []string
	durable     bool
	share       uint64
	settings    *bankpb.Settings
	incarnation uint64
	mute        bool                                       // keeps snapshots to itself
	claims      string                                     // in place of its name
	macKey      []byte                                     // proves this key instead of the plan's
	refuse      func(id uint64) *bankpb.Error              // of InitSnapshot
	change      func(*bankpb.ReturnSnapshot_LocalSnapshot) // a lie
}

func newFakeBank(tb testing.TB, n int) *fakeBank {
	tb.Helper()
	bank := &fakeBank{tb: tb, started: map[uint64]string{}}
	var running sync.WaitGroup
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		b := &fakeBranch{bank: bank, name: "branch" + strconv.Itoa(i+1), index: i, listener: l, conns: map[net.Conn]bool{}, incarnation: 1, durable: true}
		bank.branches = append(bank.branches, b)
		running.Go(b.accept)
	}
	tb.Cleanup(func() {
		for _, b := range bank.branches {
			b.listener.Close()
			b.cut()
		}
		running.Wait()
	})
	return bank
}

func (f *fakeBank) roster() roster.Roster {
	r := roster.Roster{File: "branches.txt"}
	for i, b := range f.branches {
		addr := b.listener.Addr().(*net.TCPAddr)
		r.Branches = append(r.Branches, roster.Branch{Name: b.name, Host: "127.0.0.1", Port: uint16(addr.Port), Line: i + 1})
	}
	return r
}

// do changes the script while the branches run.
func (f *fakeBank) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (b *fakeBranch) accept() {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.bank.do(func() { b.conns[conn] = true })
		serving.Go(func() {
			defer conn.Close()
			b.serve(conn)
			b.bank.do(func() { delete(b.conns, conn) })
		})
	}
}

// cut ends all connections; with down set, new ones end as well.
func (b *fakeBranch) cut() {
	b.bank.do(func() {
		for conn := range b.conns {
			conn.Close()
		}
	})
}

type fakeSession struct {
	*fakeBranch
	conn             net.Conn
	theirs, ours     []byte
	attached, proved bool
}

func (b *fakeBranch) serve(conn net.Conn) {
	s := &fakeSession{fakeBranch: b, conn: conn, ours: []byte("branch nonce 016")}
	r := bufio.NewReader(conn)
	for {
		m := &bankpb.BranchMessage{}
		if err := protodelim.UnmarshalFrom(r, m); err != nil {
			return
		}
		b.bank.mu.Lock()
		down := b.down
		if !down {
			s.handle(m)
		}
		b.bank.mu.Unlock()
		if down {
			return
		}
	}
}

func (s *fakeSession) send(m *bankpb.BranchMessage) {
	_, _ = protodelim.MarshalTo(s.conn, m) // a cut connection is part of the script
}

func (s *fakeSession) fail(id uint64, code bankpb.Error_Code, text string) {
	s.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{Error: &bankpb.Error{Code: code, Message: text, SnapshotId: id}}})
}

// handle has the bank's lock.
func (s *fakeSession) handle(m *bankpb.BranchMessage) {
	switch body := m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_Attach:
		s.attached, s.theirs = true, body.Attach.GetNonce()
		c := &bankpb.Challenge{Version: 1, Name: s.name, Open: s.plan != nil, Nonce: s.ours, Durable: s.durable}
		if s.claims != "" {
			c.Name = s.claims
		}
		if s.plan != nil {
			c.BankId, c.Keyed = s.plan.GetBankId(), len(s.plan.GetKey()) > 0
			key := s.plan.GetKey()
			if s.macKey != nil {
				key = s.macKey
			}
			c.Mac = link.BranchMAC(key, s.theirs, s.ours, c.GetBankId(), s.name)
		}
		s.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Challenge{Challenge: c}})
	case *bankpb.BranchMessage_Prove:
		want := link.ControllerMAC(s.plan.GetKey(), s.theirs, s.ours, s.plan.GetBankId(), s.name)
		if len(s.plan.GetKey()) > 0 && string(want) != string(body.Prove.GetMac()) {
			s.fail(0, bankpb.Error_DENIED, "the key is not proved")
			return
		}
		s.proved, s.settings = true, body.Prove.GetSettings()
		s.status()
	case *bankpb.BranchMessage_InitBranch:
		s.open(body.InitBranch)
	case *bankpb.BranchMessage_GetStatus:
		if !s.proved {
			s.fail(0, bankpb.Error_DENIED, "prove yourself first")
			return
		}
		if body.GetStatus.GetSettings() != nil {
			s.settings = body.GetStatus.GetSettings()
		}
		s.status()
	case *bankpb.BranchMessage_Cut:
		s.bank.cuts = append(s.bank.cuts, fmt.Sprintf("%s-%s %dµs", s.name, body.Cut.GetPeer(), body.Cut.GetDurationUs()))
		s.status()
	case *bankpb.BranchMessage_InitSnapshot:
		s.initSnapshot(body.InitSnapshot.GetSnapshotId())
	case *bankpb.BranchMessage_RetrieveSnapshot:
		s.retrieve(body.RetrieveSnapshot.GetSnapshotId())
	default:
		s.bank.tb.Errorf("%s was sent %T", s.name, body)
	}
}

func (s *fakeSession) open(m *bankpb.InitBranch) {
	s.bank.proposed = append(s.bank.proposed, s.name)
	before := 0
	for _, b := range s.bank.branches[:s.index] {
		if b.plan == nil {
			before++
		}
	}
	s.bank.ahead = max(s.bank.ahead, before)
	if s.plan != nil && string(s.plan.GetBankId()) != string(m.GetPlan().GetBankId()) {
		s.fail(0, bankpb.Error_OTHER_BANK, "belongs to another bank")
		return
	}
	var names []string
	for _, b := range m.GetAllBranches() {
		names = append(names, b.GetName())
	}
	s.plan, s.roster, s.share, s.proved = m.GetPlan(), names, m.GetBalance(), true
	s.status()
}

func (s *fakeSession) status() {
	st := &bankpb.Status{Incarnation: s.incarnation, Total: s.plan.GetTotal(), Roster: s.roster, Balance: s.share, Share: s.share, Ready: true}
	for id := range s.bank.started {
		st.LastSnapshotId = max(st.GetLastSnapshotId(), id)
	}
	s.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Status_{Status_: st}})
}

func (s *fakeSession) initSnapshot(id uint64) {
	if s.refuse != nil {
		if e := s.refuse(id); e != nil {
			s.fail(id, e.GetCode(), e.GetMessage())
			return
		}
	}
	if s.bank.started[id] != "" {
		s.fail(id, bankpb.Error_SNAPSHOT_EXISTS, "exists")
		return
	}
	s.bank.started[id] = s.name
	s.bank.wake()
}

// wake tries all answers again that wait. It has the lock.
func (f *fakeBank) wake() {
	waiting := f.waiting
	f.waiting = nil
	for _, answer := range waiting {
		answer()
	}
}

func (s *fakeSession) retrieve(id uint64) {
	if s.bank.started[id] == "" || s.mute {
		s.bank.waiting = append(s.bank.waiting, func() { s.retrieve(id) })
		return
	}
	zero := func() []uint64 { return make([]uint64, len(s.bank.branches)-1) }
	p := &bankpb.ReturnSnapshot_LocalSnapshot{
		SnapshotId: id, Balance: s.share, Incarnation: s.incarnation, ChannelState: zero(), ChannelCount: zero(),
		SentMoney: zero(), SentCount: zero(), ReceivedMoney: zero(), ReceivedCount: zero(),
	}
	if s.bank.started[id] != s.name {
		p.FirstMarkerFrom = s.bank.started[id]
	}
	if s.change != nil {
		s.change(p)
	}
	s.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_ReturnSnapshot{ReturnSnapshot: &bankpb.ReturnSnapshot{LocalSnapshot: p}}})
}

// run is a controller that runs in a test.
type run struct {
	*controller.Controller
	events chan controller.Event
	done   chan error
	stop   context.CancelFunc
}

// startRun starts a controller with snapshots on demand unless the test sets another interval.
func startRun(t *testing.T, f *fakeBank, dir string, set func(*controller.Config)) *run {
	t.Helper()
	r := &run{events: make(chan controller.Event, 1<<14), done: make(chan error, 1)}
	cfg := controller.Config{
		Roster: f.roster(), Total: 4000, DataDir: dir, SnapshotInterval: -1, Seed: 1,
		OnEvent: func(e controller.Event) { r.events <- e },
	}
	if set != nil {
		set(&cfg)
	}
	var err error
	if r.Controller, err = controller.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	finished := make(chan struct{})
	go func() { r.done <- r.Run(ctx); close(r.events); close(finished) }()
	t.Cleanup(func() { stop(); <-finished })
	return r
}

// await drops events until one of type E comes; the run must not end before.
func await[E controller.Event](t *testing.T, r *run) E {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case e, ok := <-r.events:
			if !ok {
				t.Fatalf("the run ended: %v", <-r.done)
			}
			if e, ok := e.(E); ok {
				return e
			}
		case <-timeout:
			var e E
			t.Fatalf("no %T", e)
		}
	}
}

// end is the error of the run, which must end by itself.
func (r *run) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("the run does not end")
		return errors.New("unreachable")
	}
}
