// A branch of the assignment that keeps all its rules, with the standard library and protobuf alone.
//
//	go run ./examples/branches/go <name> <port> [interval_ms]
//
// It talks to branch.py beside it: each branch dials those that come after it in the file, says its
// name (Hello, field 16 of BranchMessage, whose field 3 is a name), and is answered in the same way
// once the other one is initialised.
package main

import (
	"bufio"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	pb "cutbank/proto/bankpb"
)

type snapshot struct {
	balance   uint64
	channels  []uint64
	recording []bool
	left      int // channels that are still recorded
}

type branch struct {
	name     string
	interval time.Duration

	mu               sync.Mutex // held for every step
	changed          *sync.Cond
	balance, initial uint64
	names            []string // in file order, itself left out; nil: not initialised
	peers            []net.Conn
	up               int // peers that have said hello
	snapshots        map[uint64]*snapshot
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: <name> <port> [interval_ms]")
	}
	interval := 5000
	if len(os.Args) > 3 {
		interval, _ = strconv.Atoi(os.Args[3])
	}
	b := &branch{name: os.Args[1], interval: time.Duration(interval) * time.Millisecond, snapshots: map[uint64]*snapshot{}}
	b.changed = sync.NewCond(&b.mu)
	l, err := net.Listen("tcp", ":"+os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	go b.pay()
	for {
		nc, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go b.serve(nc, false)
	}
}

func send(nc net.Conn, m *pb.BranchMessage) {
	if _, err := protodelim.MarshalTo(nc, m); err != nil {
		log.Print(err)
	}
}

func (b *branch) hello() *pb.BranchMessage {
	return &pb.BranchMessage{BranchMessage: &pb.BranchMessage_Hello{Hello: &pb.Hello{From: b.name}}}
}

// serve takes all that comes on a connection: a controller's, or a peer's once it has said hello.
func (b *branch) serve(nc net.Conn, dialled bool) {
	r, peer := bufio.NewReader(nc), -1
	for {
		m := new(pb.BranchMessage)
		if err := protodelim.UnmarshalFrom(r, m); err != nil {
			return
		}
		b.mu.Lock()
		switch m := m.GetBranchMessage().(type) {
		case *pb.BranchMessage_Hello:
			peer = b.greeted(nc, m.Hello.GetFrom(), dialled)
		case *pb.BranchMessage_Transfer:
			b.balance += m.Transfer.GetMoney()
			for _, s := range b.snapshots {
				if s.recording[peer] {
					s.channels[peer] += m.Transfer.GetMoney()
				}
			}
		case *pb.BranchMessage_Marker:
			s := b.record(m.Marker.GetSnapshotId())
			s.recording[peer] = false
			s.left--
		case *pb.BranchMessage_InitBranch:
			b.init(m.InitBranch)
		case *pb.BranchMessage_InitSnapshot:
			b.record(m.InitSnapshot.GetSnapshotId())
		case *pb.BranchMessage_RetrieveSnapshot:
			b.answer(nc, m.RetrieveSnapshot.GetSnapshotId())
		}
		b.changed.Broadcast()
		b.mu.Unlock()
	}
}

func (b *branch) init(m *pb.InitBranch) {
	b.balance, b.initial = m.GetBalance(), m.GetBalance()
	after := false
	for _, other := range m.GetAllBranches() {
		if other.GetName() == b.name {
			after = true
			continue
		}
		b.names = append(b.names, other.GetName())
		if after {
			nc, err := net.Dial("tcp", net.JoinHostPort(other.GetIp(), fmt.Sprint(other.GetPort())))
			if err != nil {
				log.Fatal(err)
			}
			send(nc, b.hello())
			go b.serve(nc, true)
		}
	}
	b.peers = make([]net.Conn, len(b.names))
}

func (b *branch) greeted(nc net.Conn, name string, dialled bool) (peer int) {
	for b.names == nil {
		b.changed.Wait()
	}
	if !dialled {
		send(nc, b.hello())
	}
	for b.names[peer] != name {
		peer++
	}
	b.peers[peer] = nc
	b.up++
	return peer
}

// ready waits until all channels are up.
func (b *branch) ready() {
	for b.names == nil || b.up < len(b.names) {
		b.changed.Wait()
	}
}

func (b *branch) pay() {
	for {
		time.Sleep(rand.N(b.interval + 1))
		b.mu.Lock()
		b.ready()
		low, high := max(1, b.initial/100), max(1, b.initial/20)
		if money := low + rand.Uint64N(high-low+1); money <= b.balance {
			b.balance -= money
			send(b.peers[rand.IntN(len(b.peers))], &pb.BranchMessage{BranchMessage: &pb.BranchMessage_Transfer{Transfer: &pb.Transfer{Money: money}}})
		}
		b.mu.Unlock()
	}
}

// record begins a snapshot unless it has begun: balance first, then a marker on every channel.
func (b *branch) record(id uint64) *snapshot {
	b.ready()
	if s := b.snapshots[id]; s != nil {
		return s
	}
	n := len(b.names)
	s := &snapshot{balance: b.balance, channels: make([]uint64, n), recording: make([]bool, n), left: n}
	b.snapshots[id] = s
	for i, nc := range b.peers {
		s.recording[i] = true
		send(nc, &pb.BranchMessage{BranchMessage: &pb.BranchMessage_Marker{Marker: &pb.Marker{SnapshotId: id}}})
	}
	return s
}

func (b *branch) answer(nc net.Conn, id uint64) {
	for b.snapshots[id] == nil || b.snapshots[id].left > 0 {
		b.changed.Wait()
	}
	s := b.snapshots[id]
	send(nc, &pb.BranchMessage{BranchMessage: &pb.BranchMessage_ReturnSnapshot{ReturnSnapshot: &pb.ReturnSnapshot{
		LocalSnapshot: &pb.ReturnSnapshot_LocalSnapshot{SnapshotId: id, Balance: s.balance, ChannelState: s.channels},
	}}})
}
