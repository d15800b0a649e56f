package branch_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// failing fails the n-th sync of a directory, of a file's data or of its names, with EIO.
type failing struct {
	journal.FS
	left *atomic.Int64
	what *string // of which kind the failed one was
}

func (f failing) sync(what string, do func() error) error {
	if f.left.Add(-1) == 0 {
		*f.what = what
		return syscall.EIO
	}
	return do()
}

func (f failing) SyncDir() error { return f.sync("directory", f.FS.SyncDir) }

func (f failing) Open(name string) (journal.File, error) {
	file, err := f.FS.Open(name)
	return failingFile{file, f, name[strings.IndexByte(name, '.'):]}, err
}

func (f failing) Create(name string) (journal.File, error) {
	file, err := f.FS.Create(name)
	return failingFile{file, f, name[strings.IndexByte(name, '.'):]}, err
}

type failingFile struct {
	journal.File
	fs   failing
	kind string // by its first name
}

func (f failingFile) Sync() error { return f.fs.sync(f.kind, f.File.Sync) }

// recorder keeps what leaves and enters by the connections that it accepts.
type recorder struct {
	net.Listener
	mu    sync.Mutex
	conns []*recorded
}

type recorded struct {
	net.Conn
	mu      *sync.Mutex
	in, out []byte
}

func (r *recorder) Accept() (net.Conn, error) {
	nc, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &recorded{Conn: nc, mu: &r.mu}
	r.mu.Lock()
	r.conns = append(r.conns, c)
	r.mu.Unlock()
	return c, nil
}

func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.in = append(c.in, p[:n]...)
	c.mu.Unlock()
	return n, err
}

func (c *recorded) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.out = append(c.out, p...)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// messages are the whole ones of a stream.
func messages(stream []byte) (list []*bankpb.BranchMessage) {
	r := wire.NewReader(bytes.NewReader(stream), wire.MaxRosterFrame)
	for {
		m, err := r.NextMessage()
		if err != nil {
			return list
		}
		list = append(list, m)
	}
}

// told is the most that a branch has told anybody: items sent to its peer and received from it, and parts
// of snapshots.
type told struct {
	sent, received uint64
	parts          []uint64
}

func (r *recorder) told() (t told) {
	for _, c := range r.conns {
		var base uint64 // items that the peer had when the connection began
		for _, m := range messages(c.in) {
			if p := m.GetPosition(); p != nil {
				base = p.GetReceived()
			}
		}
		for _, m := range messages(c.out) {
			switch m := m.GetBranchMessage().(type) {
			case *bankpb.BranchMessage_Position:
				t.sent, t.received = max(t.sent, m.Position.GetSent()), max(t.received, m.Position.GetReceived())
			case *bankpb.BranchMessage_Transfer, *bankpb.BranchMessage_Marker:
				base++
				t.sent = max(t.sent, base)
			case *bankpb.BranchMessage_Ack:
				t.received = max(t.received, m.Ack.GetReceived())
			case *bankpb.BranchMessage_ReturnSnapshot:
				t.parts = append(t.parts, m.ReturnSnapshot.GetLocalSnapshot().GetSnapshotId())
			}
		}
	}
	return t
}

// TestFailedSync fails the n-th sync of a branch that pays and is paid, for every n until a run ends
// before it: those of commits, of new segments, of checkpoints. The branch ends with that error, and has
// told nobody of anything that is not on the disk when all that was not synced is lost.
func TestFailedSync(t *testing.T) {
	fired := map[string]int{}
	for n := int64(1); ; n++ {
		failed, told, books := runUntilSync(t, n)
		if failed == "" {
			break
		}
		fired[failed]++
		if !books.Opened() {
			if told.sent+told.received > 0 || len(told.parts) > 0 {
				t.Errorf("sync %d: told %+v before it was opened", n, told)
			}
			continue
		}
		if told.sent > books.Sent(1) || told.received > books.Received(1) {
			t.Errorf("sync %d: told %+v, the disk has %d sent and %d received", n, told, books.Sent(1), books.Received(1))
		}
		for _, id := range told.parts {
			if r, _ := books.Snapshot(id); r == nil || !r.Complete() {
				t.Errorf("sync %d: snapshot %d was told, the disk does not have it", n, id)
			}
		}
	}
	t.Logf("syncs failed, one in each run: %v", fired)
	for _, kind := range []string{"directory", ".segment.tmp", ".checkpoint.tmp"} {
		if fired[kind] == 0 {
			t.Errorf("no sync of a %s failed: %v", kind, fired)
		}
	}
}

// runUntilSync runs a bank of two until the n-th sync of the first branch fails, or until that has made
// so many commits that all kinds of syncs were among them.
func runUntilSync(t *testing.T, n int64) (failed string, _ told, books *ledger.Ledger) {
	t.Helper()
	disk := simfs.New(uint64(n))
	var left atomic.Int64
	left.Store(n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Listener: l}
	j, err := journal.Open(failing{disk, &left, &failed}, journal.Config{SegmentBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	first, err := branch.New(context.Background(), branch.Config{
		Name: "branch1", Listener: r, Journal: j, Interval: time.Millisecond, Logger: hclog.NewNullLogger(), CheckpointBytes: 64,
	})
	if err == nil {
		err = payAndCut(ctx, t, cancel, first, l, j, &wg)
	} else {
		_ = l.Close()
	}
	cancel()
	wg.Wait()
	if err == nil {
		failed = "" // the run ended before a commit told of it, as of a checkpoint's; were it always so, none would have fired
	}
	if err != nil && (!errors.Is(err, syscall.EIO) || failed == "") {
		t.Fatalf("sync %d of a %q failed, the branch ended with: %v", n, failed, err)
	}
	disk.Restart(simfs.Drop)
	books = new(ledger.Ledger)
	again, err2 := journal.Open(disk, journal.Config{SegmentBytes: 512})
	if err2 = errors.Join(err2, again.Recover(books.Load, books.Replay)); err2 != nil {
		t.Fatalf("sync %d: %v", n, err2)
	}
	return failed, r.told(), books
}

// payAndCut runs the branch with another one and takes snapshots, until it fails or has made enough
// commits. It returns the branch's error.
func payAndCut(ctx context.Context, t *testing.T, cancel func(), first *branch.Branch, l net.Listener, j *journal.Journal, wg *sync.WaitGroup) error {
	t.Helper()
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second, err := branch.New(context.Background(), branch.Config{Name: "branch2", Listener: l2, Interval: time.Millisecond, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	wg.Go(func() { ended <- errors.Join(first.Run(ctx), j.Close()) })
	wg.Go(func() { _ = second.Run(ctx) })
	init := &bankpb.InitBranch{Balance: 1000}
	for i, l := range []net.Listener{l, l2} {
		port := uint32(l.Addr().(*net.TCPAddr).Port)
		init.AllBranches = append(init.AllBranches, &bankpb.InitBranch_Branch{Name: []string{"branch1", "branch2"}[i], Ip: "127.0.0.1", Port: port})
	}
	opening := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: init}}
	var client *plainClient // of the first
	for _, l := range []net.Listener{l2, l} {
		for client = nil; client == nil; time.Sleep(time.Millisecond) { // again, when the machine stood still meanwhile
			select {
			case err := <-ended:
				return err
			default:
			}
			nc, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				continue
			}
			defer func() { _ = nc.Close() }()
			c := &plainClient{t, nc, wire.NewReader(nc, wire.MaxFrame)}
			if _, err := c.ask(opening, statusRequest()); err == nil && nc.SetDeadline(time.Time{}) == nil {
				client = c
			}
		}
	}
	answers := make(chan *bankpb.BranchMessage)
	wg.Go(func() {
		defer close(answers)
		for {
			m, err := client.r.NextMessage()
			if err != nil {
				return
			}
			answers <- m
		}
	})
	const snapshots = 16
	for id := uint64(1); id <= snapshots; id++ { // each takes two commits at least, and the transfers others
		frames := wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{InitSnapshot: &bankpb.InitSnapshot{SnapshotId: id}}})
		frames = wire.Append(frames, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: id}}})
		_, _ = client.nc.Write(frames) // it may have ended
		select {
		case err := <-ended:
			for range answers { // to the end of the connection
			}
			return err
		case <-time.After(time.Minute):
			t.Fatalf("snapshot %d is never complete", id)
		case <-answers:
		}
	}
	cancel()
	for range answers {
	}
	return <-ended
}
