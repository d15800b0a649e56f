package ledger_test

import (
	"errors"
	"testing"

	"cutbank/internal/ledger"
)

// TestSnapshotLimits: so many in progress, so many kept, so far ahead, and not one more.
func TestSnapshotLimits(t *testing.T) {
	var l ledger.Ledger
	var out ledger.Output
	if err := l.Open(&out, ledger.Plan{Names: []string{"a", "b"}, Balances: []uint64{10, 10}}, "a", []string{"", ""}); err != nil {
		t.Fatal(err)
	}
	l.Start(&out)
	if err := l.Initiate(&out, ledger.MaxIDAhead+1, 0); !errors.Is(err, ledger.ErrTooFar) {
		t.Errorf("an id too far ahead: %v", err)
	}
	for id := range uint64(ledger.MaxInProgress) {
		if err := l.Initiate(&out, id+1, 0); err != nil {
			t.Fatal(id+1, err)
		}
	}
	if err := l.Initiate(&out, ledger.MaxInProgress+1, 0); !errors.Is(err, ledger.ErrTooMany) {
		t.Errorf("one more in progress: %v", err)
	}
	// Markers of the peer complete them, and those that follow.
	const done = ledger.MaxDone + 1
	for id := range uint64(done) {
		if err := l.Receive(&out, 1, id+1, []ledger.Item{{Marker: id + 1}}, 0); err != nil {
			t.Fatal(id+1, err)
		}
	}
	if r, gone := l.Snapshot(1); r != nil || !gone {
		t.Error("the oldest is kept")
	}
	if r, gone := l.Snapshot(2); r == nil || gone {
		t.Errorf("the last %d are not kept", ledger.MaxDone)
	}
	if err := l.Initiate(&out, done+ledger.MaxIDAhead, 0); err != nil {
		t.Errorf("an id just not too far ahead: %v", err)
	}
}

// TestMarkerLimit: markers of a peer are taken while so many snapshots wait for another's, and not one more.
func TestMarkerLimit(t *testing.T) {
	var l ledger.Ledger
	var out ledger.Output
	if err := l.Open(&out, ledger.Plan{Names: []string{"a", "b", "c"}, Balances: make([]uint64, 3)}, "a", make([]string, 3)); err != nil {
		t.Fatal(err)
	}
	const most = 1 << 16
	items := make([]ledger.Item, most+1)
	for i := range items {
		items[i].Marker = uint64(i) + 1
	}
	if err := l.Receive(&out, 1, 1, items, 0); !errors.Is(err, ledger.ErrBadItem) || l.SnapshotsInProgress() != most {
		t.Errorf("%d snapshots in progress: %v", l.SnapshotsInProgress(), err)
	}
}
