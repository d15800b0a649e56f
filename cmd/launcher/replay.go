package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/record"
	"cutbank/internal/version"
)

// replay shows the page of a bank that ran once: the events of a record in place of branches, and a clock
// that can be moved in place of the time. It begins when somebody first looks.
type replay struct {
	h      *record.History
	server *dashboard.Server

	mu    sync.Mutex
	books *record.Books // of the first pos events
	pos   int
	moves sampler
	speed float64   // of the clock; 0: it stands
	from  float64   // ms of the record, where the clock was
	since time.Time // then; zero: nobody has looked
}

// replayEvery is how often the events that are due are passed on.
const replayEvery = 50 * time.Millisecond

// parseReplay finds out whether --replay is alone with what it can be used with.
func (o *options) parseReplay(fs *pflag.FlagSet) (err error) {
	fs.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "replay", "http", "http-shared", "quiet", "verbose":
		default:
			err = fmt.Errorf("--%s is of a bank that runs, not of --replay", f.Name)
		}
	})
	switch {
	case fs.NArg() > 0:
		err = fmt.Errorf("--replay %s has all that is shown: leave out %q", o.replay, fs.Args())
	case o.HTTP == "":
		err = errors.New("--replay shows a record on the page: it needs --http")
	}
	return err
}

// runReplay serves the page until the context ends.
func (o *options) runReplay(ctx context.Context) error {
	if info, err := os.Stat(o.replay); err == nil && info.IsDir() {
		o.replay = filepath.Join(o.replay, record.EventsFile)
	}
	o.out.Say("reading %s", o.replay)
	h, err := record.Load(o.replay)
	if err != nil {
		return &controller.UsageError{Err: fmt.Errorf("--replay: %w", err)}
	}
	r := newReplay(h)
	o.out.Say("%d events of %d branches, %d whole snapshots, %s; it plays from when the page is opened, Ctrl-C ends it",
		h.Len(), len(h.Branches), len(h.Taken), (time.Duration(r.length()) * time.Millisecond).Round(100*time.Millisecond))
	var wait func() error
	if r.server, wait, err = o.serveDashboard(ctx, dashboard.Config{Bank: r}); err != nil {
		return err
	}
	tick := time.NewTicker(replayEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.mu.Lock()
			r.advance(r.publish)
			r.mu.Unlock()
		}
	}
	return wait()
}

func newReplay(h *record.History) *replay {
	return &replay{h: h, books: record.NewBooks(h.Branches), speed: 1}
}

// length of the record in ms.
func (r *replay) length() int64 { return int64(r.h.Ended()-r.h.Began())/1000 + 1 }

// ms is the time of the record's clock for an event.
func (r *replay) ms(t record.Time) int64 { return int64(t-r.h.Began()) / 1000 }

// clock is where the replay is, in ms of the record.
func (r *replay) clock() float64 {
	if r.since.IsZero() {
		return r.from
	}
	return min(r.from+float64(time.Since(r.since).Microseconds())/1000*r.speed, float64(r.length()))
}

// advance takes the events that are due into the books. Pass is told of each. It holds the lock.
func (r *replay) advance(pass func(*record.Event, *record.Taken)) {
	for due := r.h.Until(r.h.Began() + record.Time(r.clock()*1000)); r.pos < due; r.pos++ {
		e := r.h.Event(r.pos)
		pass(e, r.books.Add(e))
	}
}

// publish tells the page of an event that has just happened.
func (r *replay) publish(e *record.Event, taken *record.Taken) {
	r.moves.add(e, time.UnixMicro(int64(r.h.Began())))
	kind := map[string]string{record.Crash: "exited", record.Paused: "paused", record.Resumed: "resumed", record.Recovered: "ready", record.Gap: "gap"}[e.Kind]
	switch {
	case kind != "":
		text := e.Text
		switch e.Kind {
		case record.Crash:
			text = fmt.Sprintf("%s ended: %s", e.Branch, e.Text)
		case record.Gap:
			text = fmt.Sprintf("%s: %s; what is in transit to and from it shows again from the next snapshot on", e.Branch, e.Text)
		}
		r.server.Publish("fault", dashboard.Fault{AtMS: r.ms(e.At), Branch: e.Branch, Kind: kind, Text: text})
	case e.Kind == record.Recorded && r.books.Open[e.SnapshotID] != nil && r.books.Open[e.SnapshotID].Initiator == e.Branch:
		r.server.Publish("snapshot_started", dashboard.Started{ID: e.SnapshotID, Initiator: e.Branch})
	case taken != nil:
		r.server.Publish("snapshot", r.record(taken))
	}
}

// MoveTo moves the clock.
func (r *replay) MoveTo(toMS int64, speed float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from, r.speed, r.since = min(float64(toMS), float64(r.length())), speed, time.Now()
	if r.h.Until(r.h.Began()+record.Time(r.from*1000)) < r.pos {
		r.books, r.pos = record.NewBooks(r.h.Branches), 0
	}
	r.moves = sampler{}
	r.advance(func(*record.Event, *record.Taken) {})
}

// Hello is what holds for the whole record, and how fast it plays.
func (r *replay) Hello() dashboard.Hello {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = time.Now()
	}
	h := dashboard.Hello{
		Version: version.String(), Total: r.h.Total, Replay: true, DurationMS: r.length(), Speed: r.speed,
		StartedAt: time.UnixMicro(int64(r.h.Began())).UTC().Format(time.RFC3339Nano),
	}
	for _, name := range r.h.Branches {
		h.Roster = append(h.Roster, dashboard.Member{Name: name})
	}
	return h
}

// State is what the events so far have made of the bank.
func (r *replay) State() dashboard.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	s := dashboard.State{AtMS: int64(now), SnapshotsRunning: len(r.books.Open)}
	for i, name := range r.h.Branches {
		a := &r.books.Accounts[i]
		b := dashboard.Branch{
			Name: name, Balance: a.Balance, Restarts: a.Restarts, LastExit: a.LastExit, Incarnation: a.Starts,
			State: map[string]string{"": "starting", record.Crash: "backoff", record.Paused: "paused"}[a.Kind],
		}
		if b.State == "" {
			b.State, b.UptimeMS = "ready", int64(now)-r.ms(a.Since)
		}
		s.NaiveSum += b.Balance
		s.Branches = append(s.Branches, b)
	}
	s.Channels = []dashboard.Channel{}
	for i, src := range s.Branches {
		for j, dst := range s.Branches {
			if i == j {
				continue
			}
			f := *r.books.Flow(i, j)
			if f.Gap { // Not known: nothing is shown.
				f.ReceivedMoney, f.ReceivedCount, f.MarkersReceived = f.SentMoney, f.SentCount, f.MarkersSent
			}
			s.Channels = append(s.Channels, dashboard.Channel{
				Src: src.Name, Dst: dst.Name, Up: src.State == "ready" && dst.State == "ready",
				InTransit: f.SentMoney - min(f.SentMoney, f.ReceivedMoney),
				Items:     f.SentCount + f.MarkersSent - min(f.SentCount+f.MarkersSent, f.ReceivedCount+f.MarkersReceived),
				SentCount: f.SentCount, SentMoney: f.SentMoney, ReceivedCount: f.ReceivedCount, ReceivedMoney: f.ReceivedMoney,
			})
		}
	}
	second := r.h.Until(r.h.Began() + record.Time(now*1000) - 1e6)
	for i := second; i < r.pos; i++ {
		if r.h.Event(i).Kind == record.Send {
			s.TransfersPerSec++
		}
	}
	return s
}

// Moves since the last call.
func (r *replay) Moves() dashboard.Moves {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.moves.take(int64(r.clock()))
}

// Snapshots are those that were complete by now.
func (r *replay) Snapshots(limit int) (list []json.RawMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(r.h.Taken) && r.h.Taken[n].Position <= r.pos {
		n++
	}
	for _, t := range r.h.Taken[max(0, n-limit):n] {
		list = append(list, r.record(t))
	}
	return list
}

// Snapshot is one of them, or a later one.
func (r *replay) Snapshot(id uint64) (json.RawMessage, error) {
	for _, t := range r.h.Taken {
		if t.ID == id {
			return r.record(t), nil
		}
	}
	return nil, fmt.Errorf("%w in this record: %d", dashboard.ErrNotFound, id)
}

// record is a snapshot as a bank tells it, with what the events know.
func (r *replay) record(t *record.Taken) json.RawMessage {
	text := func(at record.Time) string {
		b, _ := at.MarshalText() // of any time
		return string(b)
	}
	rec := controller.Record{
		Schema: controller.RecordSchema, SnapshotID: t.ID, Initiator: t.Initiator, Status: controller.Consistent,
		StartedAt: text(t.Began), DurationMS: float64(t.Ended-t.Began) / 1000, Total: r.h.Total, Restarts: map[string]int{},
	}
	for i, name := range r.h.Branches {
		p := &t.Parts[i]
		rec.InBranches += p.Balance
		rec.Branches = append(rec.Branches, controller.BranchRecord{
			Name: name, Incarnation: p.Starts, Balance: p.Balance, RecordedAt: text(p.Recorded), CompletedAt: text(p.Complete), FirstMarkerFrom: p.FirstFrom,
		})
	}
	for dst, to := range r.h.Branches {
		for src, from := range r.h.Branches {
			if src != dst {
				c := t.Channel(src, dst)
				rec.InTransit += c.Money
				rec.Channels = append(rec.Channels, controller.ChannelRecord{Src: from, Dst: to, Amount: c.Money, Count: c.Count, Sent: c.Sent, Received: c.Received})
			}
		}
	}
	if found := rec.InBranches + rec.InTransit; found != r.h.Total {
		rec.Status, rec.Imbalance = controller.Inconsistent, int64(found)-int64(r.h.Total) //nolint:gosec // below 2^53
	}
	line, err := json.Marshal(rec)
	if err != nil {
		panic(err) // numbers and names
	}
	return line
}

// Cut is the diagram of a snapshot.
func (r *replay) Cut(ctx context.Context, id uint64) (dashboard.Cut, error) {
	snapshot, err := r.Snapshot(id)
	if err != nil {
		return dashboard.Cut{}, err
	}
	cut := record.NewCut(id, r.h.Branches, record.DefaultDrawn)
	for i := 0; i < r.h.Len() && !cut.Add(r.h.Event(i)); i++ {
		if ctx.Err() != nil {
			return dashboard.Cut{}, ctx.Err()
		}
	}
	events, left, missing := cut.Result()
	return diagram(snapshot, r.h.Branches, events, left, missing, time.UnixMicro(int64(r.h.Began()))), nil
}

// Control does nothing: what is shown is over.
func (r *replay) Control(context.Context, dashboard.Command) (string, error) {
	return "", errors.New("this is a record: nothing can be done in it any more")
}
