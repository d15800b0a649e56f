package engine_test

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"cutbank/internal/engine"
	"cutbank/internal/ledger"
	"cutbank/proto/bankpb"
)

// TestOverload: the disk of c hangs, so it acknowledges nothing. What a and b hold for it stays below what the
// window and the number of snapshots allow, in items and in bytes, however much they pay and whatever they are
// asked; when the disk is back, every snapshot completes and adds up, and nothing is held any more.
func TestOverload(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
		w.connect(pair[0], pair[1])
	}
	w.settle()
	const c, snapshots = 2, 2 * ledger.MaxInProgress // those of a and of b
	before := heap()
	w.hangs = map[int]bool{c: true}
	for from := range c {
		for w.tryPay(from, c) {
		}
		if n := w.nodes[from].Ledger.Unacknowledged(c); n != engine.Window {
			t.Errorf("%d items wait for c, the window is %d", n, engine.Window)
		}
	}
	w.settle()
	var client answers
	for i := range uint64(ledger.MaxInProgress + 3) {
		w.nodes[0].Initiate(&client, 2*i+1, 0)
		w.nodes[1].Initiate(&client, 2*i+2, 0)
	}
	w.settle()
	if len(client.got) != 6 || client.got[0].GetError().GetCode() != bankpb.Error_SNAPSHOT_LIMIT {
		t.Errorf("%d snapshots of %d are refused: %v", len(client.got), snapshots+6, client.got)
	}
	const more = 20_000
	for range 3 { // the others go on, and c's window stays full
		for range more {
			if !w.tryPay(0, 1) || !w.tryPay(1, 0) || w.tryPay(0, c) || w.tryPay(1, c) {
				t.Fatal("a and b can't pay each other, or can pay c")
			}
		}
		w.settle()
		for from := range c {
			if n := w.nodes[from].Ledger.Unacknowledged(c); n != engine.Window+snapshots {
				t.Errorf("%d items wait for c, want %d", n, engine.Window+snapshots)
			}
		}
		// An item is kept with a hash, in a ring of at most twice as many, and so is its frame, of a to c and of b,
		// and less of a to b and back. A recording has nine numbers a channel. The rest is buffers of batches.
		const item, frame = int(unsafe.Sizeof(ledger.Item{})) + 8, 16
		limit := 2*(engine.Window+more+2*snapshots)*2*(item+frame) + 3*snapshots*3*9*8 + 4<<20
		if got := heap() - before; got > limit {
			t.Fatalf("%d bytes are held, of at most %d", got, limit)
		}
	}
	w.hangs = nil
	w.settle()
	for id := uint64(1); id <= snapshots; id++ {
		sum := uint64(0)
		for i, e := range w.nodes {
			r, _ := e.Ledger.Snapshot(id)
			if r == nil || !r.Complete() {
				t.Fatalf("%s has no part of snapshot %d", w.names[i], id)
			}
			sum += r.Balance + r.InTransit()
		}
		if sum != 3*share {
			t.Fatalf("snapshot %d: %d, the total is %d", id, sum, 3*share)
		}
	}
	for from := range c {
		if n := w.nodes[from].Ledger.Unacknowledged(c); n != 0 {
			t.Errorf("%d items still wait for c", n)
		}
	}
}

// tryPay pays 1, unless the window is full.
func (w *world) tryPay(from, to int) bool {
	w.t.Helper()
	e := w.nodes[from]
	err := e.Ledger.Transfer(&e.Filling.Output, to, 1, 0, engine.Window)
	if err != nil && !errors.Is(err, ledger.ErrWindow) {
		w.t.Fatal(err)
	}
	return err == nil
}

// heap is how many bytes are in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
