package dashboard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// nothing is a bank of which nothing is asked.
type nothing struct{ Bank }

func (nothing) Hello() Hello                    { return Hello{} }
func (nothing) State() State                    { return State{} }
func (nothing) Moves() Moves                    { return Moves{} }
func (nothing) Snapshots(int) []json.RawMessage { return nil }

// doorServer runs a server whose door is as the test wants it.
func doorServer(t *testing.T, shared string, change func(*door)) string {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "cutbank_total_money 4000") })
	s := New(Config{Bank: nothing{}, Metrics: metrics, Shared: shared})
	change(s.door)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// TestOwner: the page is for its user and root, unless it is shared.
func TestOwner(t *testing.T) {
	if !KnowsUsers {
		t.Skip("SKIPPED: this system does not say whose a connection is")
	}
	const own, other = 1000, 1001
	lost := errors.New("no list")
	for _, c := range []struct {
		name, shared string
		user         int
		err          error
		want         map[string]int
	}{
		{"own", "", own, nil, map[string]int{"/": 200, "/metrics": 200, "/api/snapshots": 200}},
		{"root", "", 0, nil, map[string]int{"/": 200, "/metrics": 200}},
		{"another", "", other, nil, map[string]int{"/": 403, "/metrics": 403, "/api/snapshots": 403, "/api/stream": 403, "/static/app.js": 403}},
		{"unknown", "", 0, lost, map[string]int{"/": 403, "/metrics": 403}},
		{"another, metrics", SharedMetrics, other, nil, map[string]int{"/": 403, "/metrics": 200, "/api/snapshots": 403, "/metrics/": 403}},
		{"another, all", SharedAll, other, nil, map[string]int{"/": 200, "/metrics": 200, "/api/snapshots": 200}},
		{"unknown, all", SharedAll, 0, lost, map[string]int{"/": 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := doorServer(t, c.shared, func(d *door) {
				d.own, d.userOf = own, func(net.Conn) (int, error) { return c.user, c.err }
			})
			for path, want := range c.want {
				r, err := http.Get(base + path)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if r.StatusCode != want || want == http.StatusForbidden && !strings.Contains(string(body), "--http-shared") {
					t.Errorf("%s: %d %s", path, r.StatusCode, body)
				}
			}
		})
	}
}

// TestFullHouse: at the limit everybody stays. One more closes the oldest of those that have shown nothing, and
// when there is none the oldest of those that the page is for.
func TestFullHouse(t *testing.T) {
	d := newDoor("")
	d.most, d.userOf = 3, func(net.Conn) (int, error) { return d.own, nil }
	var guests []net.Conn
	var requests []*http.Request
	enter := func(n int) {
		for range n {
			a, b := net.Pipe()
			t.Cleanup(func() { _, _ = a.Close(), b.Close() })
			q, _ := http.NewRequestWithContext(d.enter(t.Context(), a), http.MethodGet, "/", nil)
			guests, requests = append(guests, a), append(requests, q)
		}
	}
	admit := func(n int) {
		if why := d.admit(requests[n]); why != "" {
			t.Error(why)
		}
	}
	check := func(want ...int) {
		t.Helper()
		var closed []int
		for i, nc := range guests {
			if nc.SetDeadline(time.Time{}) != nil {
				closed = append(closed, i)
			}
		}
		if !slices.Equal(closed, want) || len(d.guests) > d.most {
			t.Errorf("closed %v, not %v; %d are in", closed, want, len(d.guests))
		}
	}
	enter(3)
	check()
	admit(0)
	enter(1)
	check(1) // 0 is known
	d.leave(guests[2], http.StateClosed)
	enter(1)
	check(1) // there was room
	admit(3)
	enter(1)
	check(1, 4)
	admit(5)
	enter(1)
	check(0, 1, 4)
}

// TestFullServer: the same through a server, with the longest that a connection can be: a stream.
func TestFullServer(t *testing.T) {
	base := doorServer(t, SharedAll, func(d *door) { d.most = 2 })
	var streams []*bufio.Reader
	for range 3 {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		streams = append(streams, bufio.NewReader(r.Body))
		if line, err := streams[len(streams)-1].ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
	}
	if _, err := io.Copy(io.Discard, streams[0]); err == nil {
		t.Error("the oldest of three ended in order, not because it was closed")
	}
	if _, err := streams[2].ReadString('\n'); err != nil {
		t.Error(err)
	}
}
