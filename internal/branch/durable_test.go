package branch_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/journal"
	"cutbank/internal/ledger"
	"cutbank/proto/bankpb"
)

// durable is branches in this process that keep their books in directories.
type durable struct {
	t    *testing.T
	dir  string
	all  []*bankpb.InitBranch_Branch
	runs []*running // by branch; nil: it does not run

	interval time.Duration // of a branch that is started
}

type running struct {
	stop func()
	done chan error
}

func newDurable(t *testing.T, n int) *durable {
	t.Helper()
	d := &durable{t: t, dir: t.TempDir(), runs: make([]*running, n), interval: time.Millisecond}
	for i := range n {
		l := d.listen(func() string {
			claimed, err := claim()
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("127.0.0.1:%d", claimed.Addr().(*net.TCPAddr).Port+1+int(nextPort.Add(1))%99)
		})
		port := l.Addr().(*net.TCPAddr).Port
		d.all = append(d.all, &bankpb.InitBranch_Branch{Name: fmt.Sprintf("branch%d", i+1), Ip: "127.0.0.1", Port: uint32(port)})
		d.run(i, l)
	}
	t.Cleanup(func() {
		for i := range d.runs {
			d.stop(i)
		}
	})
	for i := range n {
		admitted(t, d.address(i), openingOf(1000, d.all), statusRequest())
	}
	return d
}

// nextPort is the next of the ninety-nine behind the claimed one.
var nextPort atomic.Int64

// claim listens, until this process ends, on the first of a hundred ports that are then its alone. These banks
// have no key: a branch of another process on the port of one that is stopped would be taken for that one. They
// are below the ports that the system gives to dialling ends.
var claim = sync.OnceValues(func() (l net.Listener, err error) {
	for port := 2000; port < 3000; port += 100 {
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			break
		}
	}
	return l, err
})

// listen takes an address, tried until it is free.
func (d *durable) listen(address func() string) net.Listener {
	d.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		l, err := net.Listen("tcp", address())
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
	d.run(i, d.listen(func() string { return d.address(i) }))
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
	b, err := branch.New(context.Background(), branch.Config{
		Name: d.all[i].GetName(), Listener: l, Journal: j, Durable: true, Interval: d.interval,
		Logger: hclog.NewNullLogger(), CheckpointBytes: 16 << 10,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := b.Run(ctx)
		_ = l.Close() // open still when the books were refused
		done <- errors.Join(err, j.Close())
	}()
	d.runs[i] = &running{cancel, done}
}

func (d *durable) stop(i int) {
	d.t.Helper()
	if r := d.runs[i]; r != nil {
		r.stop()
		if err := d.ended(i); err != nil {
			d.t.Errorf("%s: %v", d.all[i].GetName(), err)
		}
	}
}

// ended waits for the end of a branch.
func (d *durable) ended(i int) error {
	d.t.Helper()
	r := d.runs[i]
	d.runs[i] = nil
	select {
	case err := <-r.done:
		r.stop()
		return err
	case <-time.After(time.Minute):
		d.t.Fatalf("%s does not end", d.all[i].GetName())
		return nil
	}
}

// status waits until the status of a branch satisfies the condition.
func (d *durable) status(i int, what string, ok func(*bankpb.Status) bool) *bankpb.Status {
	d.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for c, m := admitted(d.t, d.address(i), statusRequest()); ; m = c.receive() {
		if s := m.GetStatus_(); s != nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s is never %s: %v", d.all[i].GetName(), what, m)
		}
		time.Sleep(2 * time.Millisecond)
		c.send(statusRequest())
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

// put makes a copy of a directory the one of branch i.
func (d *durable) put(i int, from string) {
	d.t.Helper()
	if err := errors.Join(os.RemoveAll(d.path(i)), os.CopyFS(d.path(i), os.DirFS(from))); err != nil {
		d.t.Fatal(err)
	}
}

// refused waits until branch i and branch 0 refuse one another, and no money has moved at i.
func (d *durable) refused(i int, before uint64) {
	d.t.Helper()
	d.status(i, "refused", func(s *bankpb.Status) bool {
		return strings.Contains(s.GetLinks()[0].GetRefused(), "this branch's directory is old")
	})
	d.status(0, "refusing", func(s *bankpb.Status) bool {
		return strings.Contains(s.GetLinks()[i-1].GetRefused(), "its directory is old")
	})
	if s := d.status(i, "there", func(*bankpb.Status) bool { return true }); s.GetReady() || sent(s) != before {
		d.t.Errorf("money moved at %s: %v", d.all[i].GetName(), s)
	}
}

// books reads how many transfers a directory has sent.
func (d *durable) books(dir string) (n uint64) {
	d.t.Helper()
	fs, err := journal.ReadDir(dir)
	if err != nil {
		d.t.Fatal(err)
	}
	var l ledger.Ledger
	_, err = journal.Verify(fs, func(_ uint64, b []byte) error { return l.Load(b) }, func(_ uint64, b []byte) error { return l.Replay(b) })
	if err != nil {
		d.t.Fatal(err)
	}
	for i := range d.all {
		if i != l.Self() {
			flow, _ := l.Flows(i)
			n += flow.Count
		}
	}
	return n
}

// TestOldDirectory: every earlier copy of a directory is refused on both sides before money moves: of
// one branch, of two at once from different times, and of one in place of the other. The newest ones
// are taken back.
func TestOldDirectory(t *testing.T) {
	d := newDurable(t, 3)
	copies := 6
	if testing.Short() {
		copies = 4
	}
	of := func(i, k int) string { return filepath.Join(d.dir, fmt.Sprintf("%s.copy%d", d.all[i].GetName(), k)) }
	take := func(k int) {
		d.paid(1, 20)
		d.paid(2, 20)
		for _, i := range []int{1, 2} {
			d.stop(i)
			if err := os.CopyFS(of(i, k), os.DirFS(d.path(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for k := range copies {
		take(k)
		d.start(1)
		d.start(2)
	}
	take(copies) // the newest
	refused := 0
	for k := range copies {
		d.put(1, of(1, k))
		d.put(2, of(2, copies))
		d.start(1)
		d.refused(1, d.books(of(1, k)))
		other := (k + copies/2) % copies
		d.put(2, of(2, other))
		d.start(2)
		d.refused(2, d.books(of(2, other)))
		d.refused(1, d.books(of(1, k)))
		d.stop(1)
		d.stop(2)
		for i, from := range map[int]string{1: of(2, k), 2: of(1, k)} {
			d.put(i, from)
			d.start(i)
			if err := d.ended(i); err == nil || !strings.Contains(err.Error(), "the data directory is that of "+d.all[3-i].GetName()) {
				t.Errorf("the directory of the other: %v", err)
			}
		}
		refused += 5
	}
	t.Logf("%d directories refused", refused)
	d.put(1, of(1, copies))
	d.put(2, of(2, copies))
	d.start(1)
	d.start(2)
	d.paid(1, 20)
	d.drain()
}

// restartsEnv is how many branches TestRestarts stops at full load: 20 when it is not set.
const restartsEnv = "CUTBANK_TEST_RESTARTS"

// TestRestarts: branches are stopped and started again while all pay, then the same at full load; at the end
// transfers stop, outboxes drain, and the balances alone are the total.
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
	stops := 20
	if s := os.Getenv(restartsEnv); s != "" {
		var err error
		if stops, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	d.interval = 0
	for k := range stops {
		d.paid((k+1)%4, 50)
		d.stop(k % 4)
		d.start(k % 4)
	}
	t.Logf("%d branches stopped at full load", stops)
	d.drain()
}

// drain stops all transfers and checks invariant I4.
func (d *durable) drain() {
	d.t.Helper()
	stopped := true
	for i := range d.all {
		admitted(d.t, d.address(i), &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{
			GetStatus: &bankpb.GetStatus{Settings: &bankpb.Settings{Stopped: &stopped}},
		}})
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
