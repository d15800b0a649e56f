package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cutbank/internal/dashboard"
)

// fake is a bank of two branches that notes what it is asked to do.
type fake struct{ done atomic.Value }

func (f *fake) Hello() dashboard.Hello { return dashboard.Hello{Total: 4000} }
func (f *fake) State() dashboard.State { return dashboard.State{NaiveSum: 3975} }
func (f *fake) Moves() dashboard.Moves { return dashboard.Moves{LeftOut: 7} }
func (f *fake) Snapshots(limit int) []json.RawMessage {
	return []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"limit":%d}`, limit))}
}

func (f *fake) Snapshot(id uint64) (json.RawMessage, error) {
	if id != 10 {
		return nil, dashboard.ErrNotFound
	}
	return json.RawMessage(`{"snapshot_id":10}`), nil
}

func (f *fake) Cut(_ context.Context, id uint64) (dashboard.Cut, error) {
	r, err := f.Snapshot(id)
	return dashboard.Cut{Snapshot: r, LeftOut: 3}, err
}

func (f *fake) Control(_ context.Context, c dashboard.Command) (string, error) {
	if c.Branch == "nobody" {
		return "", errors.New("no branch is called nobody")
	}
	f.done.Store(c)
	return "killed " + c.Branch, nil
}

// serve runs a server and returns its address.
func serve(t *testing.T, bank dashboard.Bank, token string) (*dashboard.Server, string) {
	t.Helper()
	l, err := dashboard.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := dashboard.New(dashboard.Config{Bank: bank, Token: token, Metrics: http.NotFoundHandler()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// TestGuards: each thing that is refused, next to the one that is not.
func TestGuards(t *testing.T) {
	bank := &fake{}
	_, address := serve(t, bank, "secret")
	kill := `{"verb":"kill","branch":"branch1"}`
	own := map[string]string{"X-Cutbank-Token": "secret", "Content-Type": "application/json", "Origin": "http://" + address}
	with := func(key, value string) map[string]string {
		h := map[string]string{}
		for k, v := range own {
			h[k] = v
		}
		h[key] = value
		return h
	}
	for _, c := range []struct {
		name, method, path, body string
		header                   map[string]string
		want                     int
		text                     string
	}{
		{"the page", "GET", "/", "", nil, 200, `content="secret"`},
		{"a file", "GET", "/static/index.html", "", nil, 301, ""},
		{"a file outside", "GET", "/static/..%2fdashboard.go", "", nil, 404, ""},
		{"a button", "POST", "/api/control", kill, own, 200, `"ok":true`},
		{"a program, which has no Origin", "POST", "/api/control", kill, map[string]string{"X-Cutbank-Token": "secret", "Content-Type": "application/json"}, 200, "killed branch1"},
		{"no token", "POST", "/api/control", kill, with("X-Cutbank-Token", ""), 403, "token"},
		{"another token", "POST", "/api/control", kill, with("X-Cutbank-Token", "secreT"), 403, "token"},
		{"another page", "POST", "/api/control", kill, with("Origin", "http://evil.example"), 403, "another page"},
		{"another page by Sec-Fetch-Site", "POST", "/api/control", kill, with("Sec-Fetch-Site", "cross-site"), 403, "another page"},
		{"a sandboxed frame", "POST", "/api/control", kill, with("Origin", "null"), 403, "another page"},
		{"a form", "POST", "/api/control", kill, with("Content-Type", "text/plain"), 415, "application/json"},
		{"GET", "GET", "/api/control", "", own, 405, ""},
		{"PUT", "PUT", "/api/control", kill, own, 405, ""},
		{"another name (rebinding)", "GET", "/", "", map[string]string{"Host": "evil.example"}, 403, "evil.example"},
		{"another name, with the port", "GET", "/api/stream", "", map[string]string{"Host": "evil.example:7070"}, 403, ""},
		{"another name, posting", "POST", "/api/control", kill, with("Host", "evil.example"), 403, ""},
		{"localhost", "GET", "/api/snapshots", "", map[string]string{"Host": "localhost:7070"}, 200, `"limit":60`},
		{"another verb", "POST", "/api/control", `{"verb":"format"}`, own, 400, "none of kill"},
		{"no JSON", "POST", "/api/control", `kill`, own, 400, ""},
		{"too much", "POST", "/api/control", `{"verb":"` + strings.Repeat("x", 5000) + `"}`, own, 400, "too large"},
		{"what the bank refuses", "POST", "/api/control", `{"verb":"kill","branch":"nobody"}`, own, 409, "no branch is called nobody"},
		{"a limit", "GET", "/api/snapshots?limit=100000", "", nil, 200, `"limit":500`},
		{"a snapshot", "GET", "/api/snapshots/10", "", nil, 200, `"snapshot_id":10`},
		{"another", "GET", "/api/snapshots/11", "", nil, 404, "no such snapshot"},
		{"no number", "GET", "/api/snapshots/-1", "", nil, 400, ""},
		{"a cut", "GET", "/api/cut/10", "", nil, 200, `"left_out":3`},
		{"no cut", "GET", "/api/cut/11", "", nil, 404, ""},
		{"a replay's slider on a live bank", "POST", "/api/replay", `{}`, own, 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bank.done.Store(dashboard.Command{})
			q, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+address+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.header {
				q.Header.Set(k, v)
			}
			if h := c.header["Host"]; h != "" {
				q.Host = h
			}
			client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			r, err := client.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != c.want || !strings.Contains(string(body), c.text) {
				t.Errorf("%d %s %v, want %d with %q", r.StatusCode, body, err, c.want, c.text)
			}
			csp := r.Header.Get("Content-Security-Policy")
			if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; ") || strings.Contains(csp, "unsafe") {
				t.Errorf("policy %q", csp)
			}
			if did := bank.done.Load() != (dashboard.Command{}); did != (c.want == 200 && c.method == "POST") {
				t.Errorf("the bank was asked: %v", did)
			}
		})
	}
}

// TestNoToken: a server without a token takes no command at all.
func TestNoToken(t *testing.T) {
	_, address := serve(t, &fake{}, "")
	r, err := http.Post("http://"+address+"/api/control", "application/json", strings.NewReader(`{"verb":"kill"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusForbidden {
		t.Error(r.Status)
	}
}

// watcher reads a stream.
type watcher struct {
	t *testing.T
	r *bufio.Reader
	c io.Closer
}

func watch(t *testing.T, address, last string) *watcher {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		q.Header.Set("Last-Event-ID", last)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Body.Close() })
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(r.Status, r.Header)
	}
	return &watcher{t, bufio.NewReader(r.Body), r.Body}
}

// next returns the next message of one of these kinds.
func (w *watcher) next(kinds ...string) (id, kind, data string) {
	w.t.Helper()
	id, kind, data, err := w.read(kinds...)
	if err != nil {
		w.t.Fatalf("waiting for %v: %v", kinds, err)
	}
	return id, kind, data
}

func (w *watcher) read(kinds ...string) (id, kind, data string, err error) {
	for {
		line, err := w.r.ReadString('\n')
		if err != nil {
			return "", "", "", err
		}
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data = value
		case "":
			for _, k := range kinds {
				if k == kind {
					return id, kind, data, nil
				}
			}
		}
	}
}

// TestResume: a watcher that comes back with the id of its last message gets exactly those after it; with
// an id of another run, or of too long ago, a fresh picture.
func TestResume(t *testing.T) {
	s, address := serve(t, &fake{}, "")
	w := watch(t, address, "")
	first, _, data := w.next("hello")
	if !strings.Contains(data, `"schema":"cutbank.stream/1"`) || !strings.Contains(data, `"controls":false`) {
		t.Error(data)
	}
	if _, _, data = w.next("state"); !strings.Contains(data, `"naive_sum":3975`) {
		t.Error(data)
	}
	if _, _, data = w.next("moves"); !strings.Contains(data, `"left_out":7`) {
		t.Error(data)
	}
	s.Publish("fault", 1)
	last, _, _ := w.next("fault")
	_ = w.c.Close()
	for i := range 3 {
		s.Publish("fault", i+2)
	}
	w = watch(t, address, last)
	for i := range 3 {
		if _, kind, data := w.next("hello", "fault"); kind != "fault" || data != fmt.Sprint(i+2) {
			t.Errorf("%s %s where fault %d was due", kind, data, i+2)
		}
	}
	if _, kind, _ := watch(t, address, "otherrun.1").next("hello", "fault"); kind != "hello" {
		t.Errorf("an id of another run got %s", kind)
	}
	run, _, _ := strings.Cut(first, ".")
	if _, kind, _ := watch(t, address, run+".99999999").next("hello", "fault"); kind != "hello" {
		t.Errorf("an id of the future got %s", kind)
	}
	for i := range 5000 { // more than are kept
		s.Publish("fault", i)
	}
	w = watch(t, address, first)
	if _, kind, _ := w.next("hello", "fault"); kind != "hello" {
		t.Errorf("an id of long ago got %s", kind)
	}
	s.Publish("fault", "after")
	if _, _, data := w.next("fault"); data != `"after"` {
		t.Errorf("after the picture came %s", data)
	}
}

// TestSlowWatcher: a watcher that does not read holds up nobody, and when it reads again it has a fresh
// picture and then what is new.
func TestSlowWatcher(t *testing.T) {
	s, address := serve(t, &fake{}, "")
	slow := watch(t, address, "")
	last, _, _ := slow.next("hello")
	big := strings.Repeat("x", 100<<10)
	var longest time.Duration
	for range 400 { // 40 MB: more than sockets and ring hold together
		began := time.Now()
		s.Publish("fault", big)
		longest = max(longest, time.Since(began))
	}
	if longest > 8*time.Second { // a watcher may take 10 to read
		t.Errorf("publishing one took %s", longest)
	}
	s.Publish("fault", "end")
	pictures := 0
	for {
		id, kind, data, err := slow.read("hello", "fault")
		if err != nil { // on a busy machine it was so slow that it was given up; it comes back
			slow = watch(t, address, last)
			continue
		}
		last = id
		if kind == "hello" {
			pictures++
		}
		if data == `"end"` || pictures > 0 {
			break
		}
	}
	if pictures == 0 {
		t.Error("40 MB were kept for a watcher that did not read")
	}
}

// TestTooManyWatchers: the 65th is refused, and taken when one has gone.
func TestTooManyWatchers(t *testing.T) {
	_, address := serve(t, &fake{}, "")
	var first *watcher
	for range 64 {
		w := watch(t, address, "")
		w.next("hello")
		if first == nil {
			first = w
		}
	}
	status := func() int {
		r, err := http.Get("http://" + address + "/api/stream")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		return r.StatusCode
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d", got)
	}
	_ = first.c.Close()
	for deadline := time.Now().Add(time.Minute); status() != http.StatusOK; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its place is never free")
		}
	}
}

// TestListen: the next free port, and only this machine.
func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l, err := dashboard.Listen(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Addr().String() == taken.Addr().String() {
		t.Error("the port was taken")
	}
	for _, bad := range []string{"0.0.0.0:7070", "192.0.2.1:7070", "example.org:7070", "7070", "127.0.0.1:http"} {
		if l, err := dashboard.Listen(bad); err == nil {
			_ = l.Close()
			t.Errorf("%s was taken", bad)
		}
	}
}
