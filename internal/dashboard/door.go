package dashboard

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"sync"
)

// Whom the page is open to besides root and the user of this process. Every user of a machine reaches its
// loopback.
const (
	SharedMetrics = "metrics" // everybody may read /metrics
	SharedAll     = "all"     // everybody may do everything
)

// maxConnections bounds those that are open.
const maxConnections = 256

// door knows who is at the other end of the connections, and bounds them. When it is full the oldest of
// those that have shown nothing is closed for the new one, so that a flood of strangers can't lock the
// owner out; and when there is none, the oldest of the owner's.
type door struct {
	shared string
	most   int
	own    int // the user that the page is for
	userOf func(net.Conn) (int, error)

	mu     sync.Mutex
	guests map[net.Conn]*guest
	came   uint64
}

// guest is a connection.
type guest struct {
	user func() (int, error) // asked once, at its first request

	n     uint64 // the door's: later ones have higher numbers
	known bool   // it may look at the page
}

func newDoor(shared string) *door {
	return &door{shared: shared, most: maxConnections, own: os.Geteuid(), userOf: userOf, guests: make(map[net.Conn]*guest)}
}

type guestKey struct{}

// enter is a server's ConnContext.
func (d *door) enter(ctx context.Context, nc net.Conn) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.guests) >= d.most {
		d.closeOldest()
	}
	d.came++
	g := &guest{n: d.came, user: sync.OnceValues(func() (int, error) { return d.userOf(nc) })}
	d.guests[nc] = g
	return context.WithValue(ctx, guestKey{}, g)
}

func (d *door) closeOldest() {
	var oldest net.Conn
	for nc, g := range d.guests {
		if o := d.guests[oldest]; o == nil || (!g.known && o.known) || (g.known == o.known && g.n < o.n) {
			oldest = nc
		}
	}
	delete(d.guests, oldest)
	_ = oldest.Close()
}

// leave is a server's ConnState.
func (d *door) leave(nc net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.guests, nc)
	}
}

// admit says why a request may not be answered, or nothing.
func (d *door) admit(q *http.Request) string {
	g, _ := q.Context().Value(guestKey{}).(*guest)
	if g == nil {
		return "this request did not come by a connection" // no server of ours has it
	}
	if KnowsUsers && d.shared != SharedAll && (d.shared != SharedMetrics || q.URL.Path != "/metrics") {
		const open = "; --http-shared opens it to all users of this machine, --http-shared=metrics only its /metrics"
		id, err := g.user()
		switch {
		case err != nil:
			return fmt.Sprintf("this page is for %s, and whose this connection is can't be found out (%v)%s", name(d.own), err, open)
		case id != d.own && id != 0:
			return fmt.Sprintf("this page is for %s, who started the launcher, and this connection is of %s%s", name(d.own), name(id), open)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	g.known = true
	return ""
}

func name(id int) string {
	if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", id)
}
