package ledger_test

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"testing"

	"cutbank/internal/ledger"
)

// books are the events and the checkpoint of a branch in the middle of a snapshot.
func books(tb testing.TB) (opened, events, checkpoint []byte) {
	tb.Helper()
	a, _, out, _ := two(tb)
	opened = bytes.Clone(out.Persist)
	out.Reset()
	a.Start(out)
	for _, err := range []error{
		a.Transfer(out, 1, 5, 0, 8),
		a.Transfer(out, 1, 6, 99, 8),
		a.Initiate(out, 3, 1),
		a.Receive(out, 1, 1, []ledger.Item{{Money: 7}, {Marker: 4}, {Marker: 3}}, 2),
		a.Initiate(out, 9, 3),
		a.Acknowledge(out, 1, 2),
		a.Move(out, []string{"x:1", "y:2"}),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	return opened, bytes.Clone(out.Persist), a.Checkpoint(nil)
}

// bounded runs f and fails when it allocates out of proportion to its input.
func bounded(t *testing.T, size int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+size*1024); got > most {
		t.Fatalf("%d bytes allocated for an input of %d", got, size)
	}
}

// usable checks books that were accepted: they can be written, read again and worked with.
func usable(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	if !l.Opened() {
		return
	}
	written := l.Checkpoint(nil)
	again := new(ledger.Ledger)
	if err := again.Load(written); err != nil {
		t.Fatalf("accepted, but its checkpoint is refused: %v", err)
	}
	if !bytes.Equal(again.Checkpoint(nil), written) {
		t.Fatal("a checkpoint changes when it is loaded")
	}
	var out ledger.Output
	peer := (l.Self() + 1) % len(l.Plan().Names)
	_ = l.Transfer(&out, peer, 1, 0, math.MaxInt)
	_ = l.Receive(&out, peer, l.Received(peer)+1, []ledger.Item{{Money: 1}, {Marker: 3}, {Marker: 77}}, 0)
	_ = l.Acknowledge(&out, peer, l.Sent(peer))
	if err := again.Replay(out.Persist); err != nil {
		t.Fatalf("its own events are refused: %v", err)
	}
	if !bytes.Equal(again.Checkpoint(nil), l.Checkpoint(nil)) {
		t.Fatal("replay differs from what ran")
	}
}

// refused are events that do not fit the books of a new branch.
func refused() map[string][]byte {
	return map[string][]byte{
		"a huge count":                  {1<<3 | 3, 0xff, 0xff, 0xff, 0xff, 0x0f, 1},
		"a huge credit":                 {1<<3 | 3, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"a credit of nothing":           {1<<3 | 3, 1, 0},
		"nothing sent":                  {1<<3 | 1, 0},
		"marker of snapshot 0":          {1<<3 | 4, 0, 0},
		"marker of a complete snapshot": {1<<3 | 4, 5, 0, 1<<3 | 4, 5, 0},
		"snapshot 0 started":            {1<<3 | 6, 0, 0},
		"snapshot started twice":        {1<<3 | 6, 5, 0, 1<<3 | 6, 5, 0},
		"an acknowledgement of nothing": {1<<3 | 5, 1},
		"the branch itself as a peer":   {1, 1},
		"no such peer":                  {2<<3 | 1, 1},
		"no such kind":                  {1<<3 | 7},
		"kind 0":                        {1 << 3},
		"nothing of that kind":          {9<<3 | 6},
		"cut short":                     {1<<3 | 4, 5},
	}
}

func TestRefusedEvents(t *testing.T) {
	opened, _, _ := books(t)
	for name, b := range refused() {
		l := new(ledger.Ledger)
		if err := l.Replay(opened); err != nil {
			t.Fatal(err)
		}
		if err := l.Replay(b); !errors.Is(err, ledger.ErrEvents) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReplay(f *testing.F) {
	opened, events, _ := books(f)
	f.Add(true, events)
	f.Add(true, []byte{})
	f.Add(false, opened)
	f.Add(false, events)
	for _, b := range refused() {
		f.Add(true, b)
	}
	f.Fuzz(func(t *testing.T, first bool, b []byte) {
		l := new(ledger.Ledger)
		if first {
			if err := l.Replay(opened); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		bounded(t, len(b), func() { err = l.Replay(b) })
		if err == nil {
			usable(t, l)
		}
	})
}

func FuzzLoad(f *testing.F) {
	_, _, checkpoint := books(f)
	f.Add(checkpoint)
	f.Add([]byte{})
	f.Add(checkpoint[:len(checkpoint)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		l := new(ledger.Ledger)
		var err error
		bounded(t, len(b), func() { err = l.Load(b) })
		if err == nil {
			usable(t, l)
		}
	})
}

// TestEveryByteOfACheckpoint cuts and alters each.
func TestEveryByteOfACheckpoint(t *testing.T) {
	_, _, checkpoint := books(t)
	for i := range checkpoint {
		if err := new(ledger.Ledger).Load(checkpoint[:i]); err == nil {
			t.Errorf("cut at %d and accepted", i)
		}
		for bit := range 8 {
			b := bytes.Clone(checkpoint)
			b[i] ^= 1 << bit
			if l := new(ledger.Ledger); l.Load(b) == nil {
				usable(t, l)
			}
		}
	}
}

func TestLastSnapshotIDNearTheEnd(t *testing.T) {
	plan := ledger.Plan{Names: []string{"a", "b"}, Balances: []uint64{1, 1}, LastSnapshotID: math.MaxUint64 - 2}
	var l ledger.Ledger
	var out ledger.Output
	for _, id := range []uint64{math.MaxUint64 - 2, ledger.MaxMoney, ledger.MaxMoney - 1<<50 + 1} {
		plan.LastSnapshotID = id
		if err := l.Open(&out, plan, "a", []string{"", ""}); err == nil || l.Opened() {
			t.Fatalf("a bank whose last snapshot id is %d is opened", id)
		}
	}
	plan.LastSnapshotID = ledger.MaxMoney - 1<<50
	if err := l.Open(&out, plan, "a", []string{"", ""}); err != nil {
		t.Fatal(err)
	}
	if err := l.Initiate(&out, plan.LastSnapshotID+1, 0); err != nil {
		t.Error(err)
	}
}
