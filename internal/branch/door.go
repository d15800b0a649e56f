package branch

import (
	"container/list"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/wire"
)

// Limits of connections that are not links. Links need none: there is one per peer.
const (
	MaxStrangers           = 512 // that have not shown who they are; they have link.HandshakeTimeout for it
	MaxStrangersPerAddress = 128 // of those
	MaxClients             = 64  // controllers, and in a bank without a key whoever asks
	MaxLarge               = 4   // that send a frame of more than wire.MaxFrame
	FrameTimeout           = 10 * time.Second
)

// budget bounds the connections of a kind. When it is full the one that was idle longest is closed to
// make room: who is honest is done in milliseconds, so that a flood can't lock anybody out.
type budget struct {
	most, perAddress int // perAddress 0: no bound

	mu      sync.Mutex
	seats   list.List // of *seat; used last: at the back
	address map[string]int
}

// seat is a connection in a budget. Only its budget touches it.
type seat struct {
	nc      net.Conn
	address string
	place   *list.Element // nil: it has left
}

func newBudget(most, perAddress int) *budget {
	return &budget{most: most, perAddress: perAddress, address: make(map[string]int)}
}

// enter takes a connection in.
func (b *budget) enter(nc net.Conn) *seat {
	host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.perAddress > 0 && b.address[host] >= b.perAddress {
		b.evict(host)
	}
	if b.seats.Len() >= b.most {
		b.evict("")
	}
	s := &seat{nc: nc, address: host}
	s.place = b.seats.PushBack(s)
	b.address[host]++
	return s
}

// evict closes the connection that was idle longest, of an address or of all.
func (b *budget) evict(address string) {
	for e := b.seats.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*seat); address == "" || s.address == address { //nolint:forcetypeassert // the list's only type
			_ = s.nc.Close()
			b.remove(s)
			return
		}
	}
}

func (b *budget) remove(s *seat) {
	if s.place == nil {
		return
	}
	b.seats.Remove(s.place)
	s.place = nil
	if b.address[s.address]--; b.address[s.address] == 0 {
		delete(b.address, s.address)
	}
}

// leave gives the seat back; also one that was taken away.
func (b *budget) leave(s *seat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(s)
}

// used notes that the connection is not idle.
func (b *budget) used(s *seat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.place != nil {
		b.seats.MoveToBack(s.place)
	}
}

// Refusals are logged at most so often; what is left out is counted.
const (
	maxRefusals   = 20
	refusalWindow = 10 * time.Second
)

// refusals logs what strangers tried, bounded and in a form that they can't forge.
type refusals struct {
	logger hclog.Logger

	mu     sync.Mutex
	began  time.Time
	logged int
	unsaid int
}

// log writes a line about a refusal. The reason may quote what a stranger sent.
func (r *refusals) log(what, from string, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.began) > refusalWindow {
		if r.unsaid > 0 {
			r.logger.Warn("more was refused", "times", r.unsaid, "within", now.Sub(r.began).Round(time.Second).String())
		}
		r.began, r.logged, r.unsaid = now, 0, 0
	}
	if r.logged == maxRefusals {
		r.unsaid++
		return
	}
	r.logged++
	r.logger.Warn(what, "from", wire.Printable(from), "reason", wire.Printable(reason.Error()))
}
