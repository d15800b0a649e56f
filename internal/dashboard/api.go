package dashboard

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"html"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// policy lets the page load its own files and talk to its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const tokenHeader = "X-Cutbank-Token" //nolint:gosec // a name

// verbs that a button may ask for.
func verbs() []string {
	return []string{"kill", "pause", "resume", "restart", "reset", "cut", "snapshot"}
}

// guard refuses what does not come from the page, or from a program on this machine.
func (s *Server) guard(next http.Handler) http.Handler {
	var origin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		if why := s.door.admit(q); why != "" {
			refuse(w, http.StatusForbidden, why)
			return
		}
		if !s.knownHost(q.Host) {
			refuse(w, http.StatusForbidden, "this server is not called "+strconv.Quote(q.Host)+": open it by its address")
			return
		}
		if q.Method == http.MethodPost {
			kind, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type"))
			switch err := origin.Check(q); {
			case err != nil:
				refuse(w, http.StatusForbidden, "the request comes from another page")
				return
			case kind != "application/json":
				refuse(w, http.StatusUnsupportedMediaType, "send application/json")
				return
			}
			q.Body = http.MaxBytesReader(w, q.Body, maxBody)
		}
		next.ServeHTTP(w, q)
	})
}

// knownHost tells whether the page was asked for by an address: a name that is made to point here (DNS
// rebinding) is never one.
func (s *Server) knownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil || (s.cfg.Host != "" && host == s.cfg.Host)
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	page, err := static.ReadFile("static/index.html")
	if err != nil {
		refuse(w, http.StatusNotFound, "this program was built without its page")
		return
	}
	const meta = `<meta name="cutbank-token" content="`
	page = bytes.Replace(page, []byte(meta), []byte(meta+html.EscapeString(s.cfg.Token)), 1)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page)
}

func (s *Server) snapshots(w http.ResponseWriter, q *http.Request) {
	limit, err := strconv.Atoi(q.FormValue("limit"))
	if err != nil || limit < 1 {
		limit = 60
	}
	list := s.cfg.Bank.Snapshots(min(limit, maxSnapshots))
	if list == nil {
		list = []json.RawMessage{}
	}
	answer(w, list)
}

func (s *Server) snapshot(w http.ResponseWriter, q *http.Request) {
	id, err := strconv.ParseUint(q.PathValue("id"), 10, 53)
	if err != nil {
		refuse(w, http.StatusBadRequest, "a snapshot id is a number")
		return
	}
	record, err := s.cfg.Bank.Snapshot(id)
	answerOr(w, record, err)
}

func (s *Server) cut(w http.ResponseWriter, q *http.Request) {
	id, err := strconv.ParseUint(q.PathValue("id"), 10, 53)
	if err != nil {
		refuse(w, http.StatusBadRequest, "a snapshot id is a number")
		return
	}
	select {
	case s.cuts <- struct{}{}:
		defer func() { <-s.cuts }()
	case <-q.Context().Done():
		return
	case <-time.After(requestLimit / 2):
		refuse(w, http.StatusServiceUnavailable, "other diagrams are being made: try again")
		return
	}
	cut, err := s.cfg.Bank.Cut(q.Context(), id)
	answerOr(w, cut, err)
}

func (s *Server) control(w http.ResponseWriter, q *http.Request) {
	if s.cfg.Token == "" || subtle.ConstantTimeCompare([]byte(q.Header.Get(tokenHeader)), []byte(s.cfg.Token)) != 1 {
		refuse(w, http.StatusForbidden, "the token of this run is missing or wrong: load the page again")
		return
	}
	var c Command
	if err := json.NewDecoder(q.Body).Decode(&c); err != nil {
		refuse(w, http.StatusBadRequest, "not a command: "+err.Error())
		return
	}
	if !slices.Contains(verbs(), c.Verb) {
		refuse(w, http.StatusBadRequest, "verb "+strconv.Quote(c.Verb)+" is none of "+strings.Join(verbs(), ", "))
		return
	}
	text, err := s.cfg.Bank.Control(q.Context(), c)
	if err != nil {
		refuse(w, http.StatusConflict, err.Error())
		return
	}
	answer(w, map[string]any{"ok": true, "text": text})
}

// seek moves a replay, and all who watch it. It changes nothing but what is shown, so it needs no token.
func (s *Server) seek(w http.ResponseWriter, q *http.Request, r Replayer) {
	var to struct {
		ToMS  int64   `json:"to_ms"`
		Speed float64 `json:"speed"`
	}
	if err := json.NewDecoder(q.Body).Decode(&to); err != nil || to.ToMS < 0 || to.Speed < 0 || to.Speed > 1000 {
		refuse(w, http.StatusBadRequest, "to_ms is a number from 0, speed one from 0 to 1000")
		return
	}
	r.MoveTo(to.ToMS, to.Speed)
	s.Publish("hello", s.hello())
	s.Publish("state", s.cfg.Bank.State())
	answer(w, map[string]any{"ok": true, "text": ""})
}

func answerOr(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	default:
		answer(w, v)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the reader is gone
}

func refuse(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": why}) // the reader is gone
}
