package branch_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/journal"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// durable is branches in this process that keep their books in directories.
type durable struct {
	t     *testing.T
	dir   string
	all   []*bankpb.InitBranch_Branch
	stops []func() // by branch; nil: it does not run
}

func newDurable(t *testing.T, n int) *durable {
	t.Helper()
	d := &durable{t: t, dir: t.TempDir(), stops: make([]func(), n)}
	for i := range n {
		l := d.listen("127.0.0.1:0")
		port := l.Addr().(*net.TCPAddr).Port                                                                                      //nolint:forcetypeassert // a TCP listener
		d.all = append(d.all, &bankpb.InitBranch_Branch{Name: fmt.Sprintf("branch%d", i+1), Ip: "127.0.0.1", Port: uint32(port)}) //nolint:gosec // a port
		d.run(i, l)
	}
	t.Cleanup(func() {
		for i := range d.stops {
			d.stop(i)
		}
	})
	for i := range n {
		c := d.client(i)
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{
			InitBranch: &bankpb.InitBranch{Balance: 1000, AllBranches: d.all},
		}})
	}
	return d
}

// listen takes an address that a stopped branch may have had: its port can be busy for a moment.
func (d *durable) listen(address string) net.Listener {
	d.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		l, err := net.Listen("tcp", address)
		if err == nil {
			return l
		}
		if time.Now().After(deadline) {
			d.t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (d *durable) path(i int) string { return filepath.Join(d.dir, d.all[i].GetName()) }

func (d *durable) address(i int) string {
	return fmt.Sprintf("127.0.0.1:%d", d.all[i].GetPort())
}

func (d *durable) start(i int) {
	d.t.Helper()
	d.run(i, d.listen(d.address(i)))
}

func (d *durable) run(i int, l net.Listener) {
	d.t.Helper()
	fs, err := journal.Dir(d.path(i))
	if err != nil {
		d.t.Fatal(err)
	}
	j, err := journal.Open(fs, journal.Config{SegmentBytes: 64 << 10})
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := branch.New(branch.Config{
		Name: d.all[i].GetName(), Listener: l, Journal: j, Durable: true, Interval: time.Millisecond,
		Logger: hclog.NewNullLogger(), CheckpointBytes: 16 << 10,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- errors.Join(b.Run(ctx), j.Close()) }()
	d.stops[i] = func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("%s: %v", d.all[i].GetName(), err)
		}
	}
}

func (d *durable) stop(i int) {
	if d.stops[i] != nil {
		d.stops[i]()
		d.stops[i] = nil
	}
}

func (d *durable) client(i int) *plainClient {
	d.t.Helper()
	nc, err := net.Dial("tcp", d.address(i))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = nc.Close() })
	return &plainClient{d.t, nc, wire.NewReader(nc, wire.MaxFrame)}
}

// status waits until the status of a branch satisfies the condition.
func (d *durable) status(i int, what string, ok func(*bankpb.Status) bool) *bankpb.Status {
	d.t.Helper()
	c := d.client(i)
	deadline := time.Now().Add(time.Minute)
	for {
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}})
		m := c.receive()
		if s := m.GetStatus_(); s != nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s is never %s: %v", d.all[i].GetName(), what, m)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// sent is the number of transfers that a branch has sent.
func sent(s *bankpb.Status) (n uint64) {
	for _, l := range s.GetLinks() {
		n += l.GetSentCount()
	}
	return n
}

func ready(s *bankpb.Status) bool { return s.GetReady() }

// paid waits for so many more transfers of a branch.
func (d *durable) paid(i int, more uint64) {
	d.t.Helper()
	from := sent(d.status(i, "ready", ready))
	d.status(i, "paying", func(s *bankpb.Status) bool { return sent(s) >= from+more })
}

// TestOldDirectory: every earlier copy of a directory is refused on both sides before money moves,
// and the newest is taken back.
func TestOldDirectory(t *testing.T) {
	d := newDurable(t, 3)
	const copies = 5
	for k := range copies {
		d.paid(1, 20)
		d.stop(1)
		if err := os.CopyFS(filepath.Join(d.dir, fmt.Sprintf("copy%d", k)), os.DirFS(d.path(1))); err != nil {
			t.Fatal(err)
		}
		d.start(1)
	}
	d.paid(1, 20)
	d.stop(1)
	newest := filepath.Join(d.dir, "newest")
	if err := os.Rename(d.path(1), newest); err != nil {
		t.Fatal(err)
	}
	for k := range copies {
		if err := os.CopyFS(d.path(1), os.DirFS(filepath.Join(d.dir, fmt.Sprintf("copy%d", k)))); err != nil {
			t.Fatal(err)
		}
		d.start(1)
		old := d.status(1, "refused", func(s *bankpb.Status) bool {
			return strings.Contains(s.GetLinks()[0].GetRefused(), "this branch's directory is old") &&
				strings.Contains(s.GetLinks()[1].GetRefused(), "this branch's directory is old")
		})
		d.status(0, "refusing", func(s *bankpb.Status) bool {
			return strings.Contains(s.GetLinks()[0].GetRefused(), "its directory is old")
		})
		again := d.status(1, "still refused", func(s *bankpb.Status) bool { return !s.GetReady() })
		if sent(again) != sent(old) || again.GetBalance() != old.GetBalance() {
			t.Errorf("copy %d: money moved: %v, then %v", k, old, again)
		}
		d.stop(1)
		if err := os.RemoveAll(d.path(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(newest, d.path(1)); err != nil {
		t.Fatal(err)
	}
	d.start(1)
	d.paid(1, 20)
	d.drain()
}

// TestRestarts: branches are stopped and started again while all pay; at the end transfers stop,
// outboxes drain, and the balances alone are the total.
func TestRestarts(t *testing.T) {
	d := newDurable(t, 4)
	for k := range 12 {
		d.paid((k+1)%4, 5)
		d.stop(k % 4)
		if k%3 == 0 {
			d.stop((k + 2) % 4)
			d.start((k + 2) % 4)
		}
		d.start(k % 4)
	}
	d.drain()
}

// drain stops all transfers and checks invariant I4.
func (d *durable) drain() {
	d.t.Helper()
	stopped := true
	for i := range d.all {
		c := d.client(i)
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{
			GetStatus: &bankpb.GetStatus{Settings: &bankpb.Settings{Stopped: &stopped}},
		}})
		c.receive()
	}
	var sum, total uint64
	for i := range d.all {
		d.status(i, "drained", func(s *bankpb.Status) bool {
			for _, l := range s.GetLinks() {
				if l.GetUnacknowledged() > 0 {
					return false
				}
			}
			return s.GetReady()
		})
	}
	for i := range d.all {
		sum += d.status(i, "there", ready).GetBalance()
		total += 1000
	}
	if sum != total {
		d.t.Errorf("drained balances are %d, the total is %d", sum, total)
	}
}
