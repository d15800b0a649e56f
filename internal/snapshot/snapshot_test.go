package snapshot_test

import (
	"errors"
	"testing"

	"cutbank/internal/snapshot"
)

// counter is a process with its totals in plain sight.
type counter struct {
	balance        uint64
	sent, received []snapshot.Flow
}

func (c *counter) Balance() uint64 { return c.balance }

func (c *counter) Flows(peer int) (sent, received snapshot.Flow) {
	return c.sent[peer], c.received[peer]
}

func (c *counter) receive(from int, money uint64) {
	c.balance += money
	c.received[from].Count++
	c.received[from].Money += money
}

func newCounter(n int, balance uint64) *counter {
	return &counter{balance: balance, sent: make([]snapshot.Flow, n), received: make([]snapshot.Flow, n)}
}

func mustMark(t *testing.T, p *snapshot.Process, id uint64, from int, c *counter) (*snapshot.Recording, bool) {
	t.Helper()
	r, first, err := p.Marker(id, from, c)
	if err != nil {
		t.Fatal(err)
	}
	return r, first
}

// TestStateOfAChannel is the picture of the package comment.
func TestStateOfAChannel(t *testing.T) {
	c, p := newCounter(3, 50), snapshot.NewProcess(0, 3)
	c.receive(1, 7)
	r := p.Start(1, c)
	for range 3 {
		c.receive(1, 1)
	}
	mustMark(t, p, 1, 1, c)
	c.receive(1, 100) // after the marker: of no concern
	if got, want := r.Channels[1].State, (snapshot.Flow{Count: 3, Money: 3}); got != want {
		t.Errorf("state %v, want %v", got, want)
	}
	if r.Balance != 57 || r.FirstFrom != snapshot.Initiator || r.Complete() {
		t.Errorf("%+v", r)
	}
	mustMark(t, p, 1, 2, c)
	if !r.Complete() || r.InTransit() != 3 || p.Len() != 0 || p.Get(1) != nil {
		t.Errorf("not complete and let go: %+v", r)
	}
}

func TestFirstMarkerClosesItsChannelEmpty(t *testing.T) {
	c, p := newCounter(3, 50), snapshot.NewProcess(2, 3)
	c.receive(0, 7)
	r, first := mustMark(t, p, 9, 0, c)
	if !first || !r.Channels[0].Closed || r.Channels[0].State != (snapshot.Flow{}) || r.FirstFrom != 0 {
		t.Errorf("first %v: %+v", first, r)
	}
	c.receive(1, 4)
	if _, first := mustMark(t, p, 9, 1, c); first || r.InTransit() != 4 || !r.Complete() {
		t.Errorf("first %v: %+v", first, r)
	}
}

func TestSecondMarkerIsRefused(t *testing.T) {
	c, p := newCounter(3, 0), snapshot.NewProcess(0, 3)
	mustMark(t, p, 1, 1, c)
	if _, _, err := p.Marker(1, 1, c); !errors.Is(err, snapshot.ErrDuplicateMarker) {
		t.Errorf("error %v", err)
	}
}

func TestSnapshotsInProgressAreSeparateAndResume(t *testing.T) {
	c, p := newCounter(3, 50), snapshot.NewProcess(0, 3)
	p.Start(8, c)
	c.receive(1, 5)
	p.Start(3, c)
	c.receive(1, 6)
	mustMark(t, p, 8, 1, c)
	again := snapshot.NewProcess(0, 3)
	for _, r := range p.InProgress() {
		again.Resume(r)
	}
	list := again.InProgress()
	if len(list) != 2 || list[0].ID != 3 || list[1].ID != 8 {
		t.Fatalf("in progress: %v", list)
	}
	mustMark(t, again, 3, 1, c)
	mustMark(t, again, 3, 2, c)
	mustMark(t, again, 8, 2, c)
	if again.Len() != 0 || list[0].InTransit() != 6 || list[1].InTransit() != 11 {
		t.Errorf("in transit %d and %d, %d in progress", list[0].InTransit(), list[1].InTransit(), again.Len())
	}
}
