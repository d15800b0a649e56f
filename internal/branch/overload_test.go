package branch_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/engine"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// gate is a journal whose commits wait while it is shut: a disk that hangs.
type gate struct {
	branch.Memory
	mu sync.Mutex
}

func (g *gate) Commit([]byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return nil
}

// TestOverload: three branches pay as fast as they can, and the disk of one hangs. The windows to it
// fill and transfers to it wait, the two others go on; when the disk is back, the snapshot that was
// started meanwhile completes and adds up.
func TestOverload(t *testing.T) {
	b := &bank{t: t}
	hung := &gate{}
	var addresses []string
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i, name := range []string{"branch1", "branch2", "branch3"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := branch.Config{
			Name: name, Listener: l, Amount: roster.Amount{Low: 1, High: 1}, Seed: uint64(i + 1), Logger: hclog.NewNullLogger(),
		}
		if i == 2 {
			cfg.Journal = hung
		}
		br, err := branch.New(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := br.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		port := l.Addr().(*net.TCPAddr).Port
		b.all = append(b.all, &bankpb.InitBranch_Branch{Name: name, Ip: "127.0.0.1", Port: uint32(port)})
		addresses = append(addresses, l.Addr().String())
	}
	const share = 10_000_000
	for _, address := range addresses {
		c, _ := admitted(t, address, openingOf(share, b.all), statusRequest())
		b.clients = append(b.clients, c)
	}
	status := func(i int) *bankpb.Status {
		b.clients[i].send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}})
		return b.clients[i].receive().GetStatus_()
	}
	until := func(what string, i int, ok func(*bankpb.Status) bool) *bankpb.Status {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Millisecond) {
			s := status(i)
			for _, l := range s.GetLinks() {
				if l.GetUnacknowledged() > engine.Window+1 { // and one marker
					t.Fatalf("%d items wait for %s", l.GetUnacknowledged(), l.GetPeer())
				}
			}
			if ok(s) {
				return s
			}
			if time.Now().After(end) {
				t.Fatalf("branch %d is never %s: %v", i+1, what, s)
			}
		}
	}
	for i := range b.all {
		until("paying", i, func(s *bankpb.Status) bool { return s.GetReady() && sent(s) > 1000 })
	}
	hung.mu.Lock()
	b.initiate(0, 1)
	for i := range 2 {
		full := until("waiting", i, func(s *bankpb.Status) bool { return s.GetLinks()[1].GetUnacknowledged() >= uint64(s.GetWindow()) })
		until("paying the other", i, func(s *bankpb.Status) bool {
			return s.GetLinks()[0].GetSentCount() > full.GetLinks()[0].GetSentCount()+20_000
		})
	}
	hung.mu.Unlock()
	var sum uint64
	for i := range b.clients {
		b.clients[i].send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
			RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: 1},
		}})
		p := b.clients[i].receive().GetReturnSnapshot().GetLocalSnapshot()
		sum += p.GetBalance()
		for _, s := range p.GetChannelState() {
			sum += s
		}
	}
	if sum != 3*share {
		t.Errorf("snapshot: %d, the total is %d", sum, 3*share)
	}
}
