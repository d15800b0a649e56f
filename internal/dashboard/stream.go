package dashboard

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of the stream.
const (
	stateEvery   = 250 * time.Millisecond
	movesEvery   = 100 * time.Millisecond
	keepAlive    = 10 * time.Second
	writeLimit   = 10 * time.Second // for a watcher to take what it is sent
	maxWatchers  = 64
	ringMessages = 2048
	ringBytes    = 4 << 20
)

// message is one server-sent event, as it goes out, without its id.
type message struct {
	n    uint64
	text string
}

// hub keeps the last messages, so that a watcher that reconnects misses none, and wakes those that
// wait. A watcher that is too slow, or was away too long, gets a fresh picture in place of what it missed.
type hub struct {
	run string // of this server: ids of another one's stream mean nothing here

	mu       sync.Mutex
	ring     []message // consecutive, oldest first
	bytes    int
	next     uint64
	changed  chan struct{} // closed by the next message
	watchers int
}

func newHub() *hub {
	return &hub{run: strings.ToLower(rand.Text()[:8]), next: 1, changed: make(chan struct{})}
}

func (h *hub) publish(event string, data any) {
	text := encode(event, data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, message{h.next, text})
	h.bytes += len(text)
	h.next++
	for len(h.ring) > ringMessages || (h.bytes > ringBytes && len(h.ring) > 1) {
		h.bytes -= len(h.ring[0].text)
		h.ring = h.ring[1:]
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func encode(event string, data any) string {
	body, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("dashboard: %s: %v", event, err)) // structs of numbers and text
	}
	return "event: " + event + "\ndata: " + string(body) + "\n\n"
}

// after lists the messages after number n; whole is false when some of them are gone. Wait is closed when
// there are more.
func (h *hub) after(n uint64) (list []message, whole bool, wait <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = h.changed
	if n >= h.next { // of the future: of another run
		return nil, false, wait
	}
	oldest := h.next - uint64(len(h.ring))
	if n+1 < oldest {
		return nil, false, wait
	}
	return append(list, h.ring[n+1-oldest:]...), true, wait
}

func (h *hub) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next - 1
}

// join admits a watcher, unless there are too many.
func (h *hub) join(by int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers+by > maxWatchers {
		return false
	}
	h.watchers += by
	return true
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.watchers > 0
}

// tick publishes the state and the moves while somebody watches.
func (s *Server) tick(ctx context.Context) {
	moves, state := time.NewTicker(movesEvery), time.NewTicker(stateEvery)
	defer moves.Stop()
	defer state.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-moves.C:
			if s.hub.watched() {
				if m := s.cfg.Bank.Moves(); len(m.Events) > 0 || m.LeftOut > 0 {
					s.hub.publish("moves", m)
				}
			}
		case <-state.C:
			if s.hub.watched() {
				s.hub.publish("state", s.cfg.Bank.State())
			}
		}
	}
}

// stream is server-sent events until the watcher goes. Last-Event-ID says where it was.
func (s *Server) stream(w http.ResponseWriter, q *http.Request) {
	if !s.hub.join(1) {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d watchers are connected: no more are taken", maxWatchers))
		return
	}
	defer s.hub.join(-1)
	out := http.NewResponseController(w)
	if out.SetReadDeadline(time.Time{}) != nil {
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	send := func(text string) bool {
		if out.SetWriteDeadline(time.Now().Add(writeLimit)) != nil {
			return false
		}
		_, err := w.Write([]byte(text))
		return err == nil && out.Flush() == nil
	}
	at, resumed := s.resume(q.Header.Get("Last-Event-ID"))
	if !resumed {
		at = s.hub.last()
		if !send("retry: 1000\n\n" + s.picture(at)) {
			return
		}
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		list, whole, wait := s.hub.after(at)
		if !whole {
			at = s.hub.last()
			if !send(s.picture(at)) {
				return
			}
			continue
		}
		var text strings.Builder
		for _, m := range list {
			fmt.Fprintf(&text, "id: %s.%d\n%s", s.hub.run, m.n, m.text)
			at = m.n
		}
		if text.Len() > 0 && !send(text.String()) {
			return
		}
		select {
		case <-q.Context().Done():
			return
		case <-wait:
		case <-alive.C:
			if !send(": alive\n\n") {
				return
			}
		}
	}
}

// picture is what a watcher needs that has nothing: it stands after message n.
func (s *Server) picture(n uint64) string {
	id := fmt.Sprintf("id: %s.%d\n", s.hub.run, n)
	return id + encode("hello", s.hello()) + id + encode("state", s.cfg.Bank.State())
}

func (s *Server) hello() Hello {
	h := s.cfg.Bank.Hello()
	h.Schema = StreamSchema
	h.Controls = s.cfg.Token != ""
	return h
}

// resume reads a Last-Event-ID of this run.
func (s *Server) resume(id string) (n uint64, ok bool) {
	run, number, _ := strings.Cut(id, ".")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, err == nil && run == s.hub.run
}
