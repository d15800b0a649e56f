package branch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// bank is branches in this process, reached over loopback as a plain client of the assignment does.
type bank struct {
	t       *testing.T
	all     []*bankpb.InitBranch_Branch
	clients []*plainClient
}

type plainClient struct {
	t  *testing.T
	nc net.Conn
	r  *wire.Reader
}

func (c *plainClient) send(m *bankpb.BranchMessage) {
	c.t.Helper()
	if _, err := c.nc.Write(wire.Append(nil, m)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *plainClient) receive() *bankpb.BranchMessage {
	c.t.Helper()
	if err := c.nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		c.t.Fatal(err)
	}
	m, err := c.r.NextMessage()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// ask says something and waits for an answer.
func (c *plainClient) ask(messages ...*bankpb.BranchMessage) (*bankpb.BranchMessage, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	var b []byte
	for _, m := range messages {
		b = wire.Append(b, m)
	}
	if _, err := c.nc.Write(b); err != nil {
		return nil, err
	}
	return c.r.NextMessage()
}

// admitted is a connection to a branch, and the answer to what is said on it first. A machine that stands still may
// do so for longer than a branch lets a stranger say nothing: then it is dialled again.
func admitted(t *testing.T, address string, messages ...*bankpb.BranchMessage) (*plainClient, *bankpb.BranchMessage) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c := &plainClient{t, nc, wire.NewReader(nc, wire.MaxFrame)}
		m, err := c.ask(messages...)
		if err == nil {
			t.Cleanup(func() { _ = nc.Close() })
			return c, m
		}
		if _ = nc.Close(); time.Now().After(end) {
			t.Fatalf("%s answers nothing: %v", address, err)
		}
	}
}

func openingOf(balance uint64, all []*bankpb.InitBranch_Branch) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{Balance: balance, AllBranches: all}}}
}

func newBank(t *testing.T, n int, interval time.Duration, delay link.Delay) *bank {
	t.Helper()
	return newBankAt(t, n, interval, delay, nil)
}

// newBankAt is a bank whose roster names other ports than those that listen, when at is not nil.
func newBankAt(t *testing.T, n int, interval time.Duration, delay link.Delay, at func(address string) (port int)) *bank {
	t.Helper()
	b := &bank{t: t}
	var direct []string
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("branch%d", i+1)
		br, err := branch.New(context.Background(), branch.Config{
			Name: name, Listener: l, Interval: interval, Delay: delay, Seed: uint64(i + 1), Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := br.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		direct = append(direct, l.Addr().String())
		port := l.Addr().(*net.TCPAddr).Port
		if at != nil {
			port = at(l.Addr().String())
		}
		b.all = append(b.all, &bankpb.InitBranch_Branch{Name: name, Ip: "127.0.0.1", Port: uint32(port)})
	}
	for _, address := range direct {
		c, _ := admitted(t, address, openingOf(1000, b.all), statusRequest())
		b.clients = append(b.clients, c)
	}
	return b
}

func (b *bank) initiate(at int, id uint64) {
	b.clients[at].send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{
		InitSnapshot: &bankpb.InitSnapshot{SnapshotId: id},
	}})
}

// retrieve asks all branches for a snapshot and checks it: the sum, and each channel.
func (b *bank) retrieve(id uint64) (inTransit uint64) {
	b.t.Helper()
	var parts []*bankpb.ReturnSnapshot_LocalSnapshot
	var sum uint64
	for _, c := range b.clients {
		c.send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
			RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: id},
		}})
	}
	for _, c := range b.clients {
		m := c.receive()
		p := m.GetReturnSnapshot().GetLocalSnapshot()
		if p.GetSnapshotId() != id {
			b.t.Fatalf("snapshot %d: got %v", id, m)
		}
		parts = append(parts, p)
		sum += p.GetBalance()
		for _, s := range p.GetChannelState() {
			sum += s
			inTransit += s
		}
	}
	n := len(b.clients)
	if want := uint64(1000 * n); sum != want {
		b.t.Errorf("snapshot %d: sum %d, want %d", id, sum, want)
	}
	for dst := range n {
		for src := range n {
			if src == dst {
				continue
			}
			in, out := other(dst, src), other(src, dst)
			money := parts[src].GetSentMoney()[out] - parts[dst].GetReceivedMoney()[in]
			count := parts[src].GetSentCount()[out] - parts[dst].GetReceivedCount()[in]
			if money != parts[dst].GetChannelState()[in] || count != parts[dst].GetChannelCount()[in] {
				b.t.Errorf("snapshot %d, channel %d->%d: sent-received is %d (%d), recorded %d (%d)",
					id, src, dst, money, count, parts[dst].GetChannelState()[in], parts[dst].GetChannelCount()[in])
			}
		}
	}
	return inTransit
}

// other is the place of a peer in a list that leaves self out.
func other(self, peer int) int {
	if peer > self {
		return peer - 1
	}
	return peer
}

// TestSnapshotsUnderLoad: 8 branches at a transfer per millisecond and faster, every snapshot exact.
func TestSnapshotsUnderLoad(t *testing.T) {
	for _, interval := range []time.Duration{time.Millisecond, 0} {
		t.Run(interval.String(), func(t *testing.T) {
			b := newBank(t, 8, interval, link.Delay{})
			for id := uint64(1); id <= 200; id++ {
				b.initiate(int(id%8), id)
				b.retrieve(id)
			}
		})
	}
}

// TestSnapshotsAtOnce: 8 snapshots in progress from 8 initiators, on slow channels, all exact.
func TestSnapshotsAtOnce(t *testing.T) {
	b := newBank(t, 8, time.Millisecond, link.Delay{Min: time.Millisecond, Max: 20 * time.Millisecond})
	b.initiate(0, 1)
	b.retrieve(1)
	var moving uint64
	for round := range uint64(3) {
		for k := range 8 {
			b.initiate(k, 10+8*round+uint64(k))
		}
		for k := range uint64(8) {
			moving += b.retrieve(10 + 8*round + k)
		}
	}
	if moving == 0 {
		t.Error("no money in transit was ever seen on slow channels")
	}
}

// TestEarlyRetrieve: a RetrieveSnapshot that comes before its snapshot waits for it.
func TestEarlyRetrieve(t *testing.T) {
	b := newBank(t, 3, time.Millisecond, link.Delay{})
	b.clients[2].send(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
		RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: 7},
	}})
	b.initiate(0, 7)
	if got := b.clients[2].receive().GetReturnSnapshot().GetLocalSnapshot().GetSnapshotId(); got != 7 {
		t.Errorf("got %d", got)
	}
}

// TestPlainClientMoves: a client of the assignment that opens the bank again, with other addresses, moves it: a port
// in its file was wrong, or branches are elsewhere.
func TestPlainClientMoves(t *testing.T) {
	var ports []uint32
	b := newBankAt(t, 2, time.Millisecond, link.Delay{}, func(address string) int {
		_, port, _ := net.SplitHostPort(address)
		n, _ := strconv.Atoi(port)
		ports = append(ports, uint32(n))
		return 1 // nobody is there
	})
	for i, branch := range b.all {
		branch.Port = ports[i]
	}
	for _, c := range b.clients {
		c.send(openingOf(1000, b.all))
	}
	b.initiate(0, 1)
	b.retrieve(1)
}

// TestRefusals: what a client may not send is answered with an error and changes nothing.
func TestRefusals(t *testing.T) {
	b := newBank(t, 2, time.Millisecond, link.Delay{})
	b.initiate(0, 5)
	b.retrieve(5)
	for name, test := range map[string]struct {
		m    *bankpb.BranchMessage
		code bankpb.Error_Code
	}{
		"same id":   {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{InitSnapshot: &bankpb.InitSnapshot{SnapshotId: 5}}}, bankpb.Error_SNAPSHOT_EXISTS},
		"id 0":      {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{InitSnapshot: &bankpb.InitSnapshot{}}}, bankpb.Error_BAD_REQUEST},
		"far ahead": {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{InitSnapshot: &bankpb.InitSnapshot{SnapshotId: 5_000_000}}}, bankpb.Error_SNAPSHOT_LIMIT},
		"transfer":  {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Transfer{Transfer: &bankpb.Transfer{Money: 9}}}, bankpb.Error_BAD_REQUEST},
		"marker":    {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Marker{Marker: &bankpb.Marker{SnapshotId: 9}}}, bankpb.Error_BAD_REQUEST},
		"other bank": {&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{
			Balance: 5000, AllBranches: b.all,
		}}}, bankpb.Error_OTHER_BANK},
	} {
		t.Run(name, func(t *testing.T) {
			b.clients[0].send(test.m)
			if got := b.clients[0].receive().GetError(); got.GetCode() != test.code {
				t.Errorf("got %v, want %v", got, test.code)
			}
		})
	}
	b.initiate(1, 6)
	b.retrieve(6)
}

// longJournal has no more than the times of commits, but many.
type longJournal struct{ branch.Memory }

func (longJournal) Recover(_, commit func([]byte) error) error {
	times := bytes.Repeat(ledger.Stamp(nil, 1), 64<<10)
	for range 16 {
		if err := commit(times); err != nil {
			return err
		}
	}
	return nil
}

// waits is a Health that keeps what is waited for.
type waits []string

func (*waits) Beat()               {}
func (*waits) Syncing(bool)        {}
func (*waits) SetReady(bool)       {}
func (w *waits) Waits(what string) { *w = append(*w, what) }

// TestReplayIsTold: a supervisor must not take a long replay for a hang, and people want to see it get on.
func TestReplayIsTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var told waits
	if _, err := branch.New(context.Background(), branch.Config{
		Name: "a", Listener: l, Journal: longJournal{}, Health: &told, Logger: hclog.NewNullLogger(),
	}); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if _, err := branch.New(ended, branch.Config{
		Name: "a", Listener: l, Journal: longJournal{}, Logger: hclog.NewNullLogger(),
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("asked to end: %v", err)
	}
	if len(told) < 4 || told[1] == told[0] || !strings.HasPrefix(told[0], "its journal to be replayed (") {
		t.Errorf("%q", told)
	}
}
