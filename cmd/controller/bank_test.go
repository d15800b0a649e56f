package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/controller"
	"cutbank/internal/journal"
	"cutbank/internal/link"
	"cutbank/internal/roster"
)

// startBranches runs n real branches in this process that pay each other at this pace.
func startBranches(t *testing.T, n int, interval time.Duration, delay link.Delay) roster.Roster {
	t.Helper()
	r := roster.Roster{File: "branches.txt"}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("branch%d", i+1)
		b, err := branch.New(context.Background(), branch.Config{
			Name: name, Listener: l, Interval: interval, Delay: delay, Seed: uint64(i + 1), Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := b.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		r.Branches = append(r.Branches, roster.Branch{Name: name, Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port), Line: i + 1})
	}
	return r
}

func config(r roster.Roster, total uint64, dir string) controller.Config {
	return controller.Config{Roster: r, Total: total, DataDir: dir}
}

// runWith runs a controller to its end; seen gets its complete snapshots.
func runWith(t *testing.T, cfg controller.Config, seen func(*controller.Controller, controller.Event)) error {
	t.Helper()
	var c *controller.Controller
	cfg.OnEvent = func(e controller.Event) {
		if seen != nil {
			seen(c, e)
		}
	}
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(t.Context())
}

// At a transfer a millisecond, every snapshot is exact in sum and per channel.
func TestTwoHundredSnapshotsUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := config(startBranches(t, 8, time.Millisecond, link.Delay{}), 8000, t.TempDir())
	cfg.SnapshotInterval, cfg.Snapshots = time.Millisecond, 200
	exact, inTransit := 0, 0
	err := runWith(t, cfg, func(_ *controller.Controller, e controller.Event) {
		if e, ok := e.(controller.SnapshotComplete); ok && e.Record.Status == controller.Consistent {
			exact++
			if e.Record.InTransit > 0 {
				inTransit++
			}
		}
	})
	if err != nil || exact != 200 {
		t.Errorf("%d of 200 exact: %v", exact, err)
	}
	t.Logf("%d of 200 with money in transit", inTransit)
}

// With a link delay, all eight are in progress before the first can be complete.
func TestEightSnapshotsAtOnce(t *testing.T) {
	t.Parallel()
	cfg := config(startBranches(t, 4, time.Millisecond, link.Delay{Min: 300 * time.Millisecond, Max: 400 * time.Millisecond}), 4000, t.TempDir())
	cfg.SnapshotInterval = -1
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready := make(chan struct{})
	var peak atomic.Int64
	now := int64(0)
	cfg.OnEvent = func(e controller.Event) {
		switch e := e.(type) {
		case controller.Ready:
			close(ready)
		case controller.SnapshotStarted:
			now++
			peak.Store(max(peak.Load(), now))
		case controller.SnapshotComplete:
			now--
			if e.Record.Status != controller.Consistent || e.Record.InTransit == 0 {
				t.Errorf("%s", e.Record.Line())
			}
		}
	}
	c, err := controller.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-ready
	var mu sync.Mutex
	initiators := map[string]bool{}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); { // until eight were started within the delay
		var taking sync.WaitGroup
		for range 8 {
			taking.Go(func() {
				r, err := c.TakeSnapshot(ctx)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				initiators[r.Initiator] = true
			})
		}
		taking.Wait()
		if peak.Load() == 8 {
			break
		}
	}
	stop()
	running.Wait()
	if peak.Load() != 8 || len(initiators) < 2 {
		t.Errorf("%d in progress at once, initiators %v", peak.Load(), initiators)
	}
}

func TestIdsContinueAndTwoControllersAgree(t *testing.T) {
	t.Parallel()
	r, dir := startBranches(t, 3, time.Millisecond, link.Delay{}), t.TempDir()
	cfg := config(r, 3000, dir)
	cfg.SnapshotInterval, cfg.Snapshots = time.Millisecond, 10
	var mu sync.Mutex
	var last uint64
	see := func(_ *controller.Controller, e controller.Event) {
		if e, ok := e.(controller.SnapshotComplete); ok {
			mu.Lock()
			defer mu.Unlock()
			last = max(last, e.Record.SnapshotID)
		}
	}
	if err := runWith(t, cfg, see); err != nil || last < 10 {
		t.Fatalf("last %d, %v", last, err)
	}
	before := last
	if err := runWith(t, cfg, see); err != nil || last < before+10 {
		t.Fatalf("last %d after %d, %v", last, before, err)
	}
	errs := make([]error, 2)
	var both sync.WaitGroup
	for i := range errs {
		both.Go(func() { errs[i] = runWith(t, cfg, see) })
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if err := runWith(t, config(r, 3001, t.TempDir()), nil); controller.ExitCode(err) != 2 {
		t.Errorf("another total: %v", err)
	}
}

// TestSummary: the summary counts the transfers of its own run, all of them.
func TestSummary(t *testing.T) {
	t.Parallel()
	cfg := config(startBranches(t, 3, time.Millisecond, link.Delay{}), 3000, t.TempDir())
	cfg.SnapshotInterval, cfg.Snapshots, cfg.StopTransfers = time.Millisecond, 100, true
	pay := false
	cfg.Settings.Stopped = &pay // the run before has stopped them
	var before uint64
	for run := range 2 {
		var got controller.Stopped
		var last *controller.Controller
		err := runWith(t, cfg, func(c *controller.Controller, e controller.Event) {
			if s, ok := e.(controller.Stopped); ok {
				got, last = s, c
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		var paid uint64
		for _, s := range last.Status() {
			for _, l := range s.Status.GetLinks() {
				paid += l.GetSentCount()
			}
		}
		if got.Paid == 0 || got.Paid > paid-before || got.Received > paid {
			t.Errorf("run %d: %d paid, %d received; the branches have %d, and had %d", run, got.Paid, got.Received, paid, before)
		}
		before = paid
	}
	if before == 0 {
		t.Error("nothing was paid")
	}
}

func TestRestoreOpensWithMoneyInTransit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config(startBranches(t, 3, time.Millisecond, link.Delay{Min: 20 * time.Millisecond, Max: 30 * time.Millisecond}), 3000, dir)
	cfg.SnapshotInterval, cfg.Duration = time.Millisecond, 2*time.Minute
	var found uint64 // id of the first snapshot with money in transit
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cfg.OnEvent = func(e controller.Event) {
		if e, ok := e.(controller.SnapshotComplete); ok && found == 0 && e.Record.InTransit > 0 {
			found = e.Record.SnapshotID
			stop()
		}
	}
	c, err := controller.New(cfg)
	if err == nil {
		err = c.Run(ctx)
	}
	if err != nil || found == 0 {
		t.Fatalf("no money in transit: %v", err)
	}
	record, err := controller.ReadSnapshot(dir, found)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := controller.RestorePlan(record)
	if err != nil {
		t.Fatal(err)
	}
	cfg = config(startBranches(t, 3, time.Hour, link.Delay{}), 3000, t.TempDir())
	cfg.Restore, cfg.Snapshots = &plan, 1
	err = runWith(t, cfg, func(_ *controller.Controller, e controller.Event) {
		if e, ok := e.(controller.SnapshotComplete); ok && e.Record.SnapshotID != found+1 {
			t.Errorf("snapshot %d after %d", e.Record.SnapshotID, found)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// durable is a branch that is stopped and started again on its directory and its port.
type durable struct {
	t       *testing.T
	dir     string
	roster  roster.Branch
	stop    context.CancelFunc
	stopped chan struct{}
}

// nextPort is one that no other branch of these tests has had.
var nextPort atomic.Int64

// start takes the port of the roster, or another one when that is 0.
func (d *durable) start() {
	d.t.Helper()
	moves := d.roster.Port == 0
	var l net.Listener
	var err error
	for end := time.Now().Add(2 * time.Minute); l == nil; time.Sleep(time.Millisecond) {
		if moves { // below the ports that the system gives to others, which would take one that is free for a moment
			d.roster.Port = uint16(3200 + (os.Getpid()+int(nextPort.Add(1)))%800)
		}
		if l, err = net.Listen("tcp", d.roster.Addr()); err != nil && time.Now().After(end) {
			d.t.Fatalf("%s can't come back: %v", d.roster.Name, err)
		}
	}
	fs, err := journal.Dir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	j, err := journal.Open(fs, journal.Config{})
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := branch.New(context.Background(), branch.Config{
		Name: d.roster.Name, Listener: l, Interval: time.Millisecond, Journal: j, Durable: true, Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop, d.stopped = stop, make(chan struct{})
	go func() {
		defer close(d.stopped)
		if err := errors.Join(b.Run(ctx), j.Close()); err != nil {
			d.t.Error(err)
		}
	}()
}

func (d *durable) end() { d.stop(); <-d.stopped }

// A branch goes and comes back ten times while snapshots are taken: those in progress complete,
// and all are exact.
func TestSnapshotsOutliveTheirBranches(t *testing.T) {
	t.Parallel()
	const restarts = 10
	r := roster.Roster{File: "branches.txt"}
	var all []*durable
	for i := range 3 {
		d := &durable{t: t, dir: t.TempDir(), roster: roster.Branch{Name: fmt.Sprintf("branch%d", i+1), Host: "127.0.0.1", Line: i + 1}}
		d.start()
		t.Cleanup(func() { d.end() })
		all = append(all, d)
		r.Branches = append(r.Branches, d.roster)
	}
	cfg := config(r, 3000, t.TempDir())
	cfg.SnapshotInterval = time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	complete := make(chan uint64, 1)
	cfg.OnEvent = func(e controller.Event) {
		switch e := e.(type) {
		case controller.SnapshotComplete:
			select {
			case complete <- e.Record.SnapshotID:
			default:
			}
		case controller.SnapshotIncomplete:
			if ctx.Err() == nil {
				t.Errorf("%s (%s)", e.Record.Line(), e.Reason)
			}
		}
	}
	c, err := controller.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for i := range restarts {
		<-complete
		d := all[i%len(all)]
		d.end()
		d.start()
		<-complete // it may be of before
		<-complete
	}
	stop()
	running.Wait()
}
