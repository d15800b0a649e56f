// Package dashboard serves the page that shows a bank, live or from a record, its stream of events, its
// controls and its metrics, over plain HTTP on this machine.
//
// It knows nothing of processes, branches and files: a Bank answers what is asked, and whoever runs the
// bank publishes what happens. Nothing is computed while nobody watches. README.md here is the contract
// with the page.
//
// Invariant: a request changes something only when it is a POST of the page itself, with the token of
// this run; and no answer waits for a reader that does not read.
package dashboard

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"time"
)

//go:embed static
var static embed.FS

// Branch is a branch as it is now.
type Branch struct {
	Name        string `json:"name"`
	State       string `json:"state"` // starting, running, ready, suspect, stopping, backoff, failed, stopped, paused, remote, away
	PID         int    `json:"pid"`   // 0: no process that is known
	Balance     uint64 `json:"balance"`
	Incarnation uint64 `json:"incarnation"`
	Restarts    int    `json:"restarts"`
	LastExit    string `json:"last_exit"`
	UptimeMS    int64  `json:"uptime_ms"`

	// For metrics alone.
	Up              bool           `json:"-"` // all its links are
	Exits           map[string]int `json:"-"` // restarts by reason; few reasons
	RecoverySeconds float64        `json:"-"` // of the last restart, from the exit to ready
	SyncMicrosLog2  []uint64       `json:"-"` // bucket i: syncs of less than 2^i µs that are in no bucket before
	SyncMicrosSum   uint64         `json:"-"`
}

// Channel is one direction between two branches, as both ends last told.
type Channel struct {
	Src           string `json:"src"`
	Dst           string `json:"dst"`
	Up            bool   `json:"up"`
	Refused       string `json:"refused"`
	InTransit     uint64 `json:"in_transit"` // money, an estimate: the ends told at different moments
	Items         uint64 `json:"items"`      // transfers and markers that are not acknowledged
	SentCount     uint64 `json:"sent_count"`
	SentMoney     uint64 `json:"sent_money"`
	ReceivedCount uint64 `json:"received_count"`
	ReceivedMoney uint64 `json:"received_money"`
}

// State is the bank as it is now. NaiveSum adds up balances that were told at different moments: it is
// no snapshot, and that is its point.
type State struct {
	AtMS             int64     `json:"at_ms"`
	Branches         []Branch  `json:"branches"`
	Channels         []Channel `json:"channels"` // none of a bank of more than MaxChannelBranches
	NaiveSum         uint64    `json:"naive_sum"`
	TransfersPerSec  float64   `json:"transfers_per_s"`
	SnapshotsRunning int       `json:"snapshots_running"`
}

// MaxChannelBranches is the largest bank whose channels are shown one by one: they are N(N−1).
const MaxChannelBranches = 64

// Member is a line of the roster.
type Member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Remote  bool   `json:"remote"`
}

// Settings of the branches, as a person reads them.
type Settings struct {
	IntervalMS float64 `json:"interval_ms"`
	Amount     string  `json:"amount"`
	LinkDelay  string  `json:"link_delay"`
}

// Hello is the first message of a stream.
type Hello struct {
	Schema     string   `json:"schema"`
	Version    string   `json:"version"`
	Total      uint64   `json:"total"`
	Roster     []Member `json:"roster"`
	Settings   Settings `json:"settings"`
	BrokenRule string   `json:"broken_rule"`
	Replay     bool     `json:"replay"`
	DurationMS int64    `json:"duration_ms"` // of a replay
	Speed      float64  `json:"speed"`       // of a replay; 0: it stands still
	Controls   bool     `json:"controls"`
	StartedAt  string   `json:"started_at"` // what at_ms counts from
}

// StreamSchema is the schema of the stream; the number changes only when old readers would break.
const StreamSchema = "cutbank.stream/1"

// Move is an event of a branch that is shown.
type Move struct {
	AtMS       int64  `json:"at_ms"`
	Kind       string `json:"kind"`
	Branch     string `json:"branch"`
	Peer       string `json:"peer"`
	Money      uint64 `json:"money"`
	N          uint64 `json:"n"` // number of the item on its channel, from 1, markers counted
	SnapshotID uint64 `json:"snapshot_id"`
	Crosses    bool   `json:"crosses,omitempty"` // the cut: counted in the state of its channel
}

// Moves are those of the last moment; LeftOut transfers are not among them.
type Moves struct {
	AtMS    int64  `json:"at_ms"`
	LeftOut uint64 `json:"left_out"`
	Events  []Move `json:"events"`
}

// Cut is the space-time diagram of a snapshot.
type Cut struct {
	Snapshot json.RawMessage `json:"snapshot"`
	LeftOut  uint64          `json:"left_out"`
	Missing  []string        `json:"missing"` // branches whose events of that time are no longer kept
	Branches []string        `json:"branches"`
	Events   []Move          `json:"events"`
}

// Started is a snapshot that was asked for.
type Started struct {
	ID        uint64 `json:"id"`
	Initiator string `json:"initiator"`
}

// Fault is what a process or a link suffered, or how it came back.
type Fault struct {
	AtMS   int64  `json:"at_ms"`
	Branch string `json:"branch"`
	Peer   string `json:"peer"`
	Kind   string `json:"kind"` // killed, exited, paused, resumed, restarting, ready, hung, failed, cut, healed, adopted, gap
	Text   string `json:"text"`
}

// Command is what a button asks for.
type Command struct {
	Verb   string `json:"verb"`
	Branch string `json:"branch"`
	Peer   string `json:"peer"`
}

// ErrNotFound is a snapshot that is not there.
var ErrNotFound = errors.New("no such snapshot")

// Bank answers what the page asks. Its methods are called from several goroutines.
type Bank interface {
	Hello() Hello
	State() State
	// Moves since the last call; called only while somebody watches.
	Moves() Moves
	// Snapshots are the newest records, newest last, at most limit.
	Snapshots(limit int) []json.RawMessage
	// Snapshot is one record. Error: ErrNotFound.
	Snapshot(id uint64) (json.RawMessage, error)
	// Cut is the diagram of a snapshot. Error: ErrNotFound.
	Cut(ctx context.Context, id uint64) (Cut, error)
	// Control does what a button asks for and says what it did. Error: why not.
	Control(ctx context.Context, c Command) (string, error)
}

// Replayer is a Bank that is a record: it can be moved to a moment and played.
type Replayer interface {
	MoveTo(toMS int64, speed float64)
}

// Config of a Server.
type Config struct {
	Bank    Bank
	Metrics http.Handler // nil: none
	Token   string       // of the run; controls need it. Empty: no controls
	Host    string       // a host name, besides IP addresses and localhost, that the page is called by; none
	Shared  string       // SharedMetrics or SharedAll. Empty: for the user of this process and root alone
}

// Server is the dashboard. Make it with New, then Serve it.
type Server struct {
	cfg  Config
	hub  *hub
	door *door
	cuts chan struct{} // one diagram at a time is computed
}

// New makes a server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, hub: newHub(), door: newDoor(cfg.Shared), cuts: make(chan struct{}, 1)}
}

// Limits of the server.
const (
	headerTimeout = 5 * time.Second
	requestLimit  = 15 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
	maxBody       = 4 << 10
	maxSnapshots  = 500
)

// Listen finds the address, or the next free port above it, up to 100 of them.
func Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("--http %s: %w: write it as 127.0.0.1:7070", address, err)
	}
	first, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("--http %s: port %s is not between 0 and 65535", address, port)
	}
	if host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("--http %s: the dashboard listens on this machine alone (127.0.0.1, ::1): what is sent to it is not encrypted", address)
	}
	for n := range uint64(100) {
		l, tried := net.Listen("tcp", net.JoinHostPort(host, strconv.FormatUint(min(first+n, 65535), 10)))
		if tried == nil {
			return l, nil
		}
		err = tried
	}
	return nil, fmt.Errorf("--http %s: no free port from there on: %w", address, err)
}

// Serve answers on the listener until the context ends, then closes all connections.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler: s.handler(), ConnContext: s.door.enter, ConnState: s.door.leave,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestLimit, WriteTimeout: requestLimit,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ticked := make(chan struct{})
	go func() { defer close(ticked); s.tick(ctx) }()
	defer func() { cancel(); <-ticked }()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("dashboard: %w", err)
	}
	return nil
}

// handler is all that is served, behind the guards.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // it is embedded above
	}
	mux.HandleFunc("GET /{$}", s.page)
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(files)))
	mux.HandleFunc("GET /api/stream", s.stream)
	mux.HandleFunc("GET /api/snapshots", s.snapshots)
	mux.HandleFunc("GET /api/snapshots/{id}", s.snapshot)
	mux.HandleFunc("GET /api/cut/{id}", s.cut)
	mux.HandleFunc("POST /api/control", s.control)
	if r, ok := s.cfg.Bank.(Replayer); ok {
		mux.HandleFunc("POST /api/replay", func(w http.ResponseWriter, q *http.Request) { s.seek(w, q, r) })
	}
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	return s.guard(mux)
}

// Publish sends what happened to everybody who watches, and keeps it a while for those who come back.
func (s *Server) Publish(event string, data any) { s.hub.publish(event, data) }
