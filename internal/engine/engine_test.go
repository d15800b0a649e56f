package engine_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"cutbank/internal/engine"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// world is engines whose frames are carried by hand, in one thread.
type world struct {
	t     testing.TB
	names []string
	nodes []*engine.Engine[*port]
	ports map[[2]int]*port // from, to
	errs  []error          // of deliveries
	hangs map[int]bool     // whose batches do not become durable
}

// port is one end of a connection.
type port struct {
	frames bytes.Buffer // on their way to the other end
	closed error
}

func (p *port) Send(frames []byte)          { p.frames.Write(frames) }
func (p *port) SendItems(ack, items []byte) { p.frames.Write(ack); p.frames.Write(items) }
func (p *port) CloseAfter([]byte)           { p.closed = errors.New("refused") }
func (p *port) Close(reason error)          { p.closed = reason }

func newWorld(tb testing.TB, names ...string) *world {
	tb.Helper()
	w := &world{t: tb, names: names, ports: map[[2]int]*port{}}
	for range names {
		w.nodes = append(w.nodes, engine.New[*port]())
	}
	for i := range names {
		w.open(i)
	}
	return w
}

// share is what each branch has at the beginning.
const share = 1_000_000

// open makes branch i part of the bank as a plain client does: the id is that of the roster.
func (w *world) open(i int) {
	w.t.Helper()
	init := &bankpb.InitBranch{Balance: share}
	for k, name := range w.names {
		init.AllBranches = append(init.AllBranches, &bankpb.InitBranch_Branch{Name: name, Ip: "127.0.0.1", Port: uint32(9001 + k)})
	}
	if _, err := w.nodes[i].Open(w.names[i], init); err != nil {
		w.t.Fatal(err)
	}
}

// connect makes a new connection between two branches.
func (w *world) connect(i, k int) {
	for _, c := range [][2]int{{i, k}, {k, i}} {
		w.ports[c] = &port{}
		w.deliver(c[0], c[1], link.Delivery{Up: true})
	}
}

func (w *world) deliver(at, from int, d link.Delivery) {
	if err := w.nodes[at].Deliver(from, w.ports[[2]int{at, from}], d, 0); err != nil {
		w.errs = append(w.errs, err)
	}
}

// settle carries frames and makes batches durable until nothing moves.
func (w *world) settle() {
	w.t.Helper()
	for moved := true; moved; {
		moved = false
		for i, e := range w.nodes {
			for !e.Filling.Empty() && !w.hangs[i] {
				moved = true
				e.Release(e.Seal())
			}
		}
		for c, p := range w.ports {
			r := wire.NewReader(bytes.NewReader(bytes.Clone(p.frames.Bytes())), wire.MaxFrame)
			p.frames.Reset()
			for p.closed == nil && w.ports[[2]int{c[1], c[0]}].closed == nil {
				frame, err := r.Next()
				if err != nil {
					break
				}
				moved = true
				w.deliver(c[1], c[0], delivery(w.t, frame))
			}
		}
	}
}

// delivery is what link.Conn makes of a frame.
func delivery(tb testing.TB, frame []byte) (d link.Delivery) {
	tb.Helper()
	if item, ok := wire.ParseItem(frame); ok {
		return link.Delivery{Items: []ledger.Item{item}}
	}
	m, err := wire.Parse(frame)
	if err != nil {
		tb.Fatal(err)
	}
	switch m := m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_Position:
		p := m.Position
		d.Position = &ledger.Position{
			Sent: p.GetSent(), Acknowledged: p.GetAcknowledged(), Received: p.GetReceived(), ReceivedHash: p.GetReceivedHash(),
		}
	case *bankpb.BranchMessage_Agreed:
		d.Agreed = true
	case *bankpb.BranchMessage_Ready:
		d.Ready = true
	case *bankpb.BranchMessage_Ack:
		d.Ack = m.Ack.GetReceived()
	default:
		tb.Fatalf("an unexpected %T on a link", m)
	}
	return d
}

func (w *world) pay(from, to int, money uint64) {
	w.t.Helper()
	if err := w.nodes[from].Ledger.Transfer(&w.nodes[from].Filling.Output, to, money, 0, engine.Window); err != nil {
		w.t.Fatal(err)
	}
}

// restart is a new process of branch i, with these books.
func (w *world) restart(i int, books []byte) {
	w.t.Helper()
	e := engine.New[*port]()
	if err := e.Ledger.Load(books); err != nil {
		w.t.Fatal(err)
	}
	e.Begin()
	w.nodes[i] = e
	for k := range w.nodes {
		if k != i {
			w.ports[[2]int{k, i}].closed = errors.New("the process ended")
			w.deliver(k, i, link.Delivery{Lost: errors.New("the process ended")})
		}
	}
}

// TestOnlyTheSenderKnows: a directory of another run of a plain client's bank has the counts that its
// peers expect and another content. Only the sender of that content can see it; the branch itself finds
// nothing wrong with any of its peers, and must not pay the others either.
func TestOnlyTheSenderKnows(t *testing.T) {
	run := func(money uint64) *world {
		w := newWorld(t, "a", "b", "c")
		for _, c := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			w.connect(c[0], c[1])
		}
		w.settle()
		w.pay(0, 1, money)
		w.settle()
		return w
	}
	w, other := run(5), run(7)
	if !w.nodes[1].Paying() || len(w.errs) > 0 {
		t.Fatalf("the barrier does not fall in an ordinary bank: %v", w.errs)
	}
	w.restart(1, other.nodes[1].Ledger.Checkpoint(nil))
	w.connect(0, 1)
	w.connect(1, 2)
	w.settle()
	if len(w.errs) != 1 || !errors.Is(w.errs[0], ledger.ErrFence) || !strings.Contains(w.errs[0].Error(), "differ from those that were sent") {
		t.Errorf("the sender does not refuse: %v", w.errs)
	}
	if w.nodes[1].Paying() {
		t.Error("a branch that a peer refuses pays the others")
	}
	w.restart(1, run(5).nodes[1].Ledger.Checkpoint(nil)) // that of the bank, by its content
	w.errs = nil
	w.connect(0, 1)
	w.connect(1, 2)
	w.settle()
	if !w.nodes[1].Paying() || len(w.errs) > 0 {
		t.Errorf("the right books are not taken back: %v", w.errs)
	}
}

// TestNoRecordingBeforeTheBarrier: a snapshot that is asked for before the books are compared waits.
func TestNoRecordingBeforeTheBarrier(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	w.nodes[0].Initiate(nil, 1, 0)
	w.connect(1, 0)
	w.settle()
	if n := w.nodes[0].Ledger.SnapshotsInProgress(); n != 0 {
		t.Fatalf("%d snapshots in progress", n)
	}
	w.connect(2, 0)
	w.connect(2, 1)
	w.settle()
	for i, e := range w.nodes {
		if r, _ := e.Ledger.Snapshot(1); r == nil || !r.Complete() {
			t.Errorf("%s has no part of the snapshot", w.names[i])
		}
	}
}

// TestTooManyBeforeTheBarrier: of the snapshots that wait for the barrier there are so many, and one more is
// refused, as one too many in progress is; it is not started at once.
func TestTooManyBeforeTheBarrier(t *testing.T) {
	w := newWorld(t, "a", "b")
	var a asking
	for id := range uint64(ledger.MaxInProgress + 1) {
		w.nodes[0].Initiate(&a, id+1, 0)
	}
	if w.settle(); a.refused != 1 || w.nodes[0].Ledger.SnapshotsInProgress() != 0 {
		t.Errorf("%d refused, %d in progress before the barrier", a.refused, w.nodes[0].Ledger.SnapshotsInProgress())
	}
	w.connect(1, 0)
	w.settle()
	if r, _ := w.nodes[0].Ledger.Snapshot(ledger.MaxInProgress); r == nil || !r.Complete() || a.refused != 1 {
		t.Errorf("the last that waited: %+v, %d refused", r, a.refused)
	}
}

// TestPartPartition: while b and c don't reach each other, what a starts is complete at a at once, so that nothing
// tells a to stop. Its links go on however many snapshots b and c are left with, and those complete afterwards.
func TestPartPartition(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
		w.connect(pair[0], pair[1])
	}
	w.settle()
	w.deliver(1, 2, link.Delivery{Lost: errors.New("cut")})
	w.deliver(2, 1, link.Delivery{Lost: errors.New("cut")})
	const snapshots = 10 * ledger.MaxInProgress
	var a asking
	for id := range uint64(snapshots) {
		w.nodes[0].Initiate(&a, id+1, 0)
		w.settle()
	}
	w.pay(0, 1, 5)
	w.settle()
	if n := w.nodes[1].Ledger.SnapshotsInProgress(); len(w.errs) > 0 || n != snapshots || w.nodes[1].Ledger.Balance() != share+5 {
		t.Errorf("%d snapshots in progress at b, which has %d: %v", n, w.nodes[1].Ledger.Balance(), w.errs)
	}
	w.connect(1, 2)
	w.settle()
	for i, e := range w.nodes {
		if n := e.Ledger.SnapshotsInProgress(); n != 0 || len(w.errs) > 0 {
			t.Errorf("%d are still in progress at %s: %v", n, w.names[i], w.errs)
		}
	}
}

// TestNoTraceBeforeReady: what a peer's position tells counts as acknowledged when the peer is ready, that
// is, when all agree with its directory. Else a directory that some peer refuses would leave a trace here,
// and that trace refuse the right one.
func TestNoTraceBeforeReady(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
		w.connect(pair[0], pair[1])
	}
	w.settle()
	w.pay(0, 1, 5)
	w.nodes[0].Release(w.nodes[0].Seal())
	frame, err := wire.NewReader(&w.ports[[2]int{0, 1}].frames, wire.MaxFrame).Next()
	if err != nil {
		t.Fatal(err)
	}
	w.deliver(1, 0, delivery(t, frame))
	w.nodes[1].Release(w.nodes[1].Seal()) // its ack is lost with the connection
	w.connect(0, 1)
	position := w.nodes[1].Ledger.Position(0)
	w.deliver(0, 1, link.Delivery{Position: &position})
	if got := w.nodes[0].Ledger.Position(1); got.Sent != 1 || got.Acknowledged != 0 {
		t.Errorf("a position alone counts as an acknowledgement: %+v", got)
	}
	w.deliver(0, 1, link.Delivery{Ready: true})
	if got := w.nodes[0].Ledger.Position(1); got.Acknowledged != 1 || len(w.errs) > 0 {
		t.Errorf("a peer that is ready has acknowledged what it holds: %+v, %v", got, w.errs)
	}
}

// TestAcknowledgementsWait: a batch that only notes acknowledgements costs no sync of its own, and is made
// durable with the next thing that somebody waits for, or when there are many.
func TestAcknowledgementsWait(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.connect(0, 1)
	w.settle()
	w.pay(0, 1, 5)
	a := w.nodes[0]
	if !a.Filling.Due() {
		t.Fatal("a payment waits")
	}
	a.Release(a.Seal())
	ack := func(count uint64) { w.deliver(0, 1, link.Delivery{Ack: count}) }
	ack(1)
	if a.Filling.Due() || a.Filling.Empty() {
		t.Fatalf("after an acknowledgement alone: due %t, empty %t", a.Filling.Due(), a.Filling.Empty())
	}
	w.pay(0, 1, 1)
	if !a.Filling.Due() {
		t.Fatal("a payment waits behind an acknowledgement")
	}
	a.Release(a.Seal())
	const many = 20_000
	for range many {
		w.pay(0, 1, 1)
	}
	a.Release(a.Seal())
	for n := uint64(3); n <= many+2 && !a.Filling.Due(); n++ {
		ack(n)
	}
	if got := len(a.Filling.Persist); !a.Filling.Due() || got > engine.MaxAcks+16 {
		t.Errorf("%d bytes of acknowledgements wait, and the batch is due: %t", got, a.Filling.Due())
	}
}

// asking is a client that counts how often it was refused.
type asking struct{ refused int }

func (a *asking) Reply(m *bankpb.BranchMessage) {
	if m.GetError().GetCode() == bankpb.Error_SNAPSHOT_LIMIT {
		a.refused++
	}
}

// TestRetrievesWaiting: so many wait for a snapshot, and one more is refused.
func TestRetrievesWaiting(t *testing.T) {
	w := newWorld(t, "p", "q")
	var a asking
	for range engine.MaxWaiting {
		w.nodes[0].Retrieve(&a, 1)
	}
	if w.settle(); a.refused != 0 {
		t.Errorf("%d refused", a.refused)
	}
	w.nodes[0].Retrieve(&a, 1)
	if w.settle(); a.refused != 1 {
		t.Errorf("%d refused, not the one too many", a.refused)
	}
	w.nodes[0].Forget(&a)
	w.nodes[0].Retrieve(&a, 1)
	if w.settle(); a.refused != 1 {
		t.Errorf("%d refused after places were free", a.refused)
	}
}

// TestRetrieveOfNone: who waits for a snapshot that nobody ever starts waits until newer ones have made it too old.
// A client whose requests were refused for long would take up all places for ever.
func TestRetrieveOfNone(t *testing.T) {
	w := newWorld(t, "p", "q")
	w.connect(0, 1)
	w.settle()
	var a answers
	w.nodes[0].Retrieve(&a, 1)
	for id := range uint64(ledger.MaxDone + 1) {
		if w.settle(); len(a.got) != 0 {
			t.Fatalf("after %d snapshots: %v", id, a.got)
		}
		w.nodes[0].Initiate(&a, id+2, 0)
	}
	if w.settle(); len(a.got) != 1 || a.got[0].GetError().GetCode() != bankpb.Error_SNAPSHOT_GONE || a.got[0].GetError().GetSnapshotId() != 1 {
		t.Errorf("when it is too old: %v", a.got)
	}
}
