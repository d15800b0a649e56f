package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/record"
	"cutbank/internal/supervise"
	"cutbank/internal/version"
)

// live is the running bank as the dashboard sees it: the supervisor's processes and the controller's
// branches under one roof.
type live struct {
	o          *options
	began      time.Time
	server     *dashboard.Server // nil: no dashboard
	metrics    *dashboard.Metrics
	supervisor *supervise.Supervisor
	controller *controller.Controller
	events     *events // nil: too many branches

	mu        sync.Mutex
	recent    []json.RawMessage // records, oldest first
	bytes     int               // of recent
	counted   time.Time         // when transfers were
	transfers uint64
	rate      float64
}

// Records that are kept for the page; older ones are read from the history.
const (
	keptRecords     = 64
	keptRecordBytes = 8 << 20
)

func newLive(o *options) *live {
	return &live{o: o, began: time.Now()}
}

// run runs the controller, or waits where another launcher has it.
func (l *live) run(ctx context.Context) error {
	if l.o.alone {
		<-ctx.Done()
		return nil
	}
	err := l.controller.Run(ctx)
	if late := (*controller.WaitError)(nil); errors.As(err, &late) {
		late.Waiting = explain(late.Waiting, l.supervisor.Status())
	}
	return err
}

// explain says of branches that are waited for what their processes do: none answers before its journal is read.
func explain(w controller.Waiting, processes []supervise.Status) controller.Waiting {
	for i := range w.Missing {
		m := &w.Missing[i]
		for _, p := range processes {
			switch {
			case p.Name != m.Name:
			case p.State == supervise.Paused:
				m.Reason = "is paused"
			case p.State == supervise.Starting && p.Waits != "":
				m.Reason = "waits for " + p.Waits
			case p.State == supervise.Backoff, p.State == supervise.Failed:
				m.Reason = "ended: " + p.LastExit
			}
		}
	}
	return w
}

// serve serves the dashboard, if there is to be one, until the context ends.
func (l *live) serve(ctx context.Context, token string) (wait func() error, err error) {
	if l.o.HTTP == "" {
		return func() error { return nil }, nil
	}
	l.metrics = dashboard.NewMetrics(l)
	l.server, wait, err = l.o.serveDashboard(ctx, dashboard.Config{Bank: l, Token: token, Metrics: l.metrics.Handler()})
	return wait, err
}

// serveDashboard listens, says where, and answers until the context ends.
func (o *options) serveDashboard(ctx context.Context, cfg dashboard.Config) (s *dashboard.Server, wait func() error, err error) {
	listener, err := dashboard.Listen(o.HTTP)
	if err != nil {
		return nil, nil, &controller.UsageError{Err: err}
	}
	cfg.Shared = o.shared
	s = dashboard.New(cfg)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	o.out.Say("dashboard: http://%s", listener.Addr())
	if !dashboard.KnowsUsers && o.shared == "" {
		o.out.Say(`every user of this machine can open it: this system does not say whose a connection is (--http "" = no dashboard)`)
	}
	return s, func() error { return <-done }, nil
}

func (l *live) at() int64 { return time.Since(l.began).Milliseconds() }

// process takes an event of the supervisor: faults are shaded behind every chart.
func (l *live) process(e supervise.Event) {
	f := dashboard.Fault{AtMS: l.at(), Branch: e.Child, Text: e.String()}
	switch e.Kind {
	case supervise.EventStarted:
		f.Kind = "restarting"
	case supervise.EventReady, supervise.EventHung, supervise.EventFailed, supervise.EventPaused, supervise.EventResumed, supervise.EventAdopted:
		f.Kind = string(e.Kind)
	case supervise.EventExited:
		f.Kind = "exited"
		if e.Cause.Innocent() {
			f.Kind = "killed"
		}
	default:
	}
	switch e.Kind {
	case supervise.EventPaused:
		l.events.note(e.Child, record.Paused, "")
	case supervise.EventResumed:
		l.events.note(e.Child, record.Resumed, "")
	case supervise.EventExited:
		if e.Cause != supervise.InOrder {
			l.events.note(e.Child, record.Crash, e.Exit)
		}
	default:
	}
	if f.Kind != "" && l.server != nil && (f.Kind != "restarting" || e.Restarts > 0) {
		l.server.Publish("fault", f)
	}
}

// bank takes an event of the controller.
func (l *live) bank(e controller.Event) {
	switch e := e.(type) {
	case controller.SnapshotStarted:
		l.publish("snapshot_started", dashboard.Started{ID: e.ID, Initiator: e.Initiator})
	case controller.SnapshotComplete:
		l.keep(e.Record)
	case controller.SnapshotIncomplete:
		l.keep(e.Record)
	default:
	}
}

func (l *live) publish(event string, data any) {
	if l.server != nil {
		l.server.Publish(event, data)
	}
}

// keep publishes a record and keeps it among the recent ones.
func (l *live) keep(r controller.Record) {
	if l.server == nil {
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		return // the history has failed for the same reason, loudly
	}
	l.metrics.Snapshot(r.Status, time.Duration(r.DurationMS*float64(time.Millisecond)), r.Imbalance)
	l.mu.Lock()
	l.recent = append(l.recent, line)
	l.bytes += len(line)
	for len(l.recent) > keptRecords || (l.bytes > keptRecordBytes && len(l.recent) > 1) {
		l.bytes -= len(l.recent[0])
		l.recent = l.recent[1:]
	}
	l.mu.Unlock()
	l.server.Publish("snapshot", json.RawMessage(line))
}

// Hello is what holds for the whole run.
func (l *live) Hello() dashboard.Hello {
	h := dashboard.Hello{
		Version: version.String(), Total: l.o.Total, BrokenRule: l.o.BrokenRule, StartedAt: l.began.UTC().Format(time.RFC3339Nano),
		Settings: dashboard.Settings{
			IntervalMS: float64(l.o.Settings.Interval.Microseconds()) / 1000, Amount: "1%-5%",
			LinkDelay: l.o.linkDelay.Min.String() + "-" + l.o.linkDelay.Max.String(),
		},
	}
	if a := l.o.Settings.Amount; a != nil {
		h.Settings.Amount = *a
	}
	for _, b := range l.o.Roster.Branches {
		h.Roster = append(h.Roster, dashboard.Member{Name: b.Name, Address: b.Addr(), Remote: l.o.remote[b.Name]})
	}
	return h
}

// State puts together what supervisor and controller know.
func (l *live) State() dashboard.State {
	processes, branches := l.supervisor.Status(), l.controller.Status()
	s := dashboard.State{AtMS: l.at(), Branches: make([]dashboard.Branch, len(branches))}
	var transfers uint64
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, b := range branches {
		p := processes[i]
		d := dashboard.Branch{
			Name: b.Name, State: string(p.State), PID: p.PID, Balance: b.Status.GetBalance(), Incarnation: b.Status.GetIncarnation(),
			Restarts: p.Restarts, LastExit: p.LastExit, RecoverySeconds: p.Recovery.Seconds(), Exits: map[string]int{},
			Up:             p.State == supervise.Ready || p.State == supervise.Remote && b.Connected && b.Status.GetReady(),
			SyncMicrosLog2: b.Status.GetJournal().GetSyncUsLog2(), SyncMicrosSum: b.Status.GetJournal().GetSyncUsSum(),
		}
		for why, n := range p.Causes {
			d.Exits[string(why)] = n
		}
		if !p.Started.IsZero() {
			d.UptimeMS = time.Since(p.Started).Milliseconds()
		}
		s.Branches[i] = d
		s.NaiveSum += d.Balance
		s.SnapshotsRunning = max(s.SnapshotsRunning, int(b.Status.GetSnapshotsInProgress()))
		for _, link := range b.Status.GetLinks() {
			transfers += link.GetSentCount()
		}
	}
	s.Channels = channels(branches)
	s.TransfersPerSec = l.perSecond(transfers)
	return s
}

// perSecond is the rate of a growing count, over a second or more. A branch that is away stands still.
func (l *live) perSecond(transfers uint64) float64 {
	if since := time.Since(l.counted); since >= time.Second {
		if !l.counted.IsZero() && transfers >= l.transfers {
			l.rate = math.Round(float64(transfers-l.transfers)/since.Seconds()*10) / 10
		}
		l.counted, l.transfers = time.Now(), transfers
	}
	return l.rate
}

// channels joins what the two ends of each channel told.
func channels(branches []controller.BranchStatus) []dashboard.Channel {
	if len(branches) > dashboard.MaxChannelBranches {
		return []dashboard.Channel{}
	}
	list := make([]dashboard.Channel, 0, len(branches)*(len(branches)-1))
	index := make(map[[2]string]int, cap(list))
	for _, src := range branches {
		for _, link := range src.Status.GetLinks() {
			index[[2]string{src.Name, link.GetPeer()}] = len(list)
			list = append(list, dashboard.Channel{
				Src: src.Name, Dst: link.GetPeer(), Up: src.Connected && link.GetUp(), Refused: link.GetRefused(),
				Items: link.GetUnacknowledged(), SentCount: link.GetSentCount(), SentMoney: link.GetSentMoney(),
			})
		}
	}
	for _, dst := range branches {
		for _, link := range dst.Status.GetLinks() {
			if i, ok := index[[2]string{link.GetPeer(), dst.Name}]; ok {
				c := &list[i]
				c.ReceivedCount, c.ReceivedMoney = link.GetReceivedCount(), link.GetReceivedMoney()
				c.InTransit = c.SentMoney - min(c.SentMoney, c.ReceivedMoney)
				c.Up = c.Up && dst.Connected
			}
		}
	}
	return list
}

// Moves since the last call.
func (l *live) Moves() dashboard.Moves { return l.events.take() }

// Snapshots are the newest records.
func (l *live) Snapshots(limit int) []json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]json.RawMessage(nil), l.recent[max(0, len(l.recent)-limit):]...)
}

// Snapshot finds a record in the history.
func (l *live) Snapshot(id uint64) (json.RawMessage, error) {
	r, err := controller.ReadSnapshot(l.o.DataDir, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dashboard.ErrNotFound, err)
	}
	return json.Marshal(r)
}

// Cut is the diagram of a snapshot.
func (l *live) Cut(ctx context.Context, id uint64) (dashboard.Cut, error) {
	snapshot, err := l.Snapshot(id)
	if err != nil || l.events == nil {
		return dashboard.Cut{Snapshot: snapshot, Missing: l.o.Roster.Names(), Branches: l.o.Roster.Names(), Events: []dashboard.Move{}}, err
	}
	return cutOf(ctx, l.o.DataDir, l.o.Roster.Names(), snapshot, id, l.began)
}

// snapshotLimit is how long a button waits for a snapshot; it may complete later.
const snapshotLimit = 10 * time.Second

// cutFor is how long a link that is cut by a button stays down.
const cutFor = 3 * time.Second

// Control does what a button asks for.
func (l *live) Control(ctx context.Context, c dashboard.Command) (string, error) {
	switch c.Verb {
	case "snapshot":
		ctx, cancel := context.WithTimeout(ctx, snapshotLimit)
		defer cancel()
		r, err := l.controller.TakeSnapshot(ctx)
		if err != nil {
			return "", err
		}
		return r.Line(), nil
	case "cut":
		if err := l.controller.Cut(c.Branch, c.Peer, cutFor); err != nil {
			return "", err
		}
		text := fmt.Sprintf("the link between %s and %s is cut for %s", c.Branch, c.Peer, cutFor)
		f := dashboard.Fault{AtMS: l.at(), Branch: c.Branch, Peer: c.Peer, Kind: "cut", Text: text}
		l.publish("fault", f)
		time.AfterFunc(cutFor, func() {
			f.AtMS, f.Kind, f.Text = l.at(), "healed", fmt.Sprintf("the link between %s and %s may come up again", c.Branch, c.Peer)
			l.publish("fault", f)
		})
		return text, nil
	default:
		return l.manage(c)
	}
}

// manage asks the supervisor.
func (l *live) manage(c dashboard.Command) (string, error) {
	if err := verbs(l.supervisor)[c.Verb](c.Branch); err != nil {
		return "", err
	}
	done := map[string]string{
		"kill": "is killed; it is started again", "pause": "is paused", "resume": "goes on",
		"restart": "ends in order and is started again", "reset": "is tried again at once",
	}
	return c.Branch + " " + done[c.Verb], nil
}
