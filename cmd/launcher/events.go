package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/record"
)

// Modes of --record.
const (
	recordEvents = "events"
	recordShiViz = "shiviz"
)

// Limits of what is shown of the events.
const (
	followEvery = 100 * time.Millisecond
	watchedFor  = 2 * time.Second // after the last question for moves, journals are not read
	maxMoves    = 100             // transfers of one message; markers and recordings come besides
	maxMarks    = 400
	movesOld    = time.Second // what happened before is not shown as if it moved now
)

// events follows the journals of the branches: for the record, and for whoever watches. When there is
// neither it reads nothing.
type events struct {
	o        *options
	began    time.Time
	follower *record.Follower
	file     *record.File // nil: nothing is recorded, or it is full

	mu      sync.Mutex
	watched time.Time
	moves   sampler
}

// newEvents opens the record that is asked for. Nil: a bank too large to be followed.
func newEvents(o *options, began time.Time) (*events, error) {
	names := o.Roster.Names()
	if len(names) > record.MaxBranches {
		if o.record != "" {
			return nil, &controller.UsageError{Err: fmt.Errorf("--record: %d branches, at most %d can be recorded", len(names), record.MaxBranches)}
		}
		return nil, nil //nolint:nilnil // there is none
	}
	e := &events{o: o, began: began, follower: record.Follow(o.DataDir, names, o.record != "")}
	for name := range o.remote {
		e.follower.Absent(name)
	}
	if o.record == "" {
		return e, nil
	}
	var err error
	e.file, err = record.OpenFile(o.DataDir, record.Header{Total: o.Total, Branches: names}, e.follower, 0)
	return e, err
}

// run follows until the context ends, and once more: the branches have ended before.
func (e *events) run(ctx context.Context) error {
	if e == nil {
		<-ctx.Done()
		return nil
	}
	defer e.follower.Close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
		if e.file == nil && !e.isWatched() {
			continue
		}
		if err := e.poll(); err != nil {
			e.o.out.Say("events are shown and recorded no longer: %v", err)
			if e.file == nil {
				err = nil // the bank is well
			}
			return e.end(err)
		}
	}
	return e.end(nil)
}

func (e *events) poll() error {
	err := e.follower.Poll(func(event *record.Event) error {
		e.show(event)
		if e.file == nil {
			return nil
		}
		err := e.file.Append(event)
		if errors.Is(err, record.ErrFull) {
			e.o.out.Say("the record is full (%d MB in %s): what happens from now on is not recorded",
				record.MaxFileBytes>>20, filepath.Join(e.o.DataDir, record.EventsFile))
			err, e.file = e.file.Close(), nil
		}
		return err
	})
	if e.file != nil {
		err = errors.Join(err, e.file.Flush())
	}
	return err
}

// end closes the record and makes of it what else was asked for.
func (e *events) end(err error) error {
	if e.file != nil {
		err = errors.Join(err, e.file.Close())
	}
	if e.o.record != recordShiViz || err != nil {
		return err
	}
	cut, err := record.ShiViz(e.o.DataDir)
	if cut {
		e.o.out.Say("%s has the first %d events", record.ShiVizFile, record.MaxShiVizLogs)
	}
	return err
}

func (e *events) isWatched() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.watched) < watchedFor
}

// note adds what the supervisor did to a branch.
func (e *events) note(branch, kind, text string) {
	if e != nil {
		e.follower.Note(record.Event{At: record.Time(time.Now().UnixMicro()), Branch: branch, Kind: kind, Text: text})
	}
}

// show keeps an event for the next moves, or counts it.
func (e *events) show(event *record.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := time.UnixMicro(int64(event.At))
	if time.Since(at) > movesOld || time.Since(e.watched) > watchedFor {
		return
	}
	e.moves.add(event, e.began)
}

// sampler keeps the moves that are shown next, and leaves out what would be too many.
type sampler struct {
	moves dashboard.Moves
	marks int
	shift int // of the items of a channel every 2^shift-th is shown
}

func (s *sampler) add(event *record.Event, began time.Time) {
	m := &s.moves
	switch event.Kind {
	case record.Recorded, record.MarkerSent, record.MarkerReceived:
		if s.marks >= maxMarks {
			return
		}
		s.marks++
	case record.Send, record.Receive:
		if event.N%(1<<s.shift) != 0 || len(m.Events)-s.marks >= maxMoves { // both ends of a transfer, or none
			if event.Kind == record.Send {
				m.LeftOut++
			}
			return
		}
	default:
		return
	}
	m.Events = append(m.Events, moveOf(event, began))
}

// take hands over the moves, and shows more or fewer of the next ones.
func (s *sampler) take(atMS int64) dashboard.Moves {
	m := s.moves
	switch n := len(m.Events) - s.marks; {
	case n >= maxMoves && s.shift < 20:
		s.shift++
	case n < maxMoves/4 && s.shift > 0:
		s.shift--
	}
	s.moves, s.marks = dashboard.Moves{}, 0
	m.AtMS = atMS
	if m.Events == nil {
		m.Events = []dashboard.Move{} // in JSON a list, also when all were left out
	}
	return m
}

func moveOf(e *record.Event, began time.Time) dashboard.Move {
	return dashboard.Move{
		AtMS: time.UnixMicro(int64(e.At)).Sub(began).Milliseconds(), Kind: e.Kind, Branch: e.Branch, Peer: e.Peer,
		Money: e.Money, N: e.N, SnapshotID: e.SnapshotID,
	}
}

// take hands over the moves.
func (e *events) take() dashboard.Moves {
	if e == nil {
		return dashboard.Moves{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched = time.Now()
	return e.moves.take(time.Since(e.began).Milliseconds())
}

// cutOf is the space-time diagram of a snapshot.
func cutOf(ctx context.Context, dir string, names []string, snapshot json.RawMessage, id uint64, began time.Time) (dashboard.Cut, error) {
	events, left, missing, err := readCut(ctx, dir, names, id, false)
	if err != nil {
		return dashboard.Cut{}, err
	}
	return diagram(snapshot, names, events, left, missing, began), nil
}

func diagram(snapshot json.RawMessage, names []string, events []record.Drawn, left uint64, missing []string, began time.Time) dashboard.Cut {
	c := dashboard.Cut{
		Snapshot: snapshot, LeftOut: left, Branches: names, Events: []dashboard.Move{},
		Missing: append([]string{}, missing...), // in JSON a list, also when empty
	}
	for i := range events {
		if events[i].Kind == record.Gap {
			continue
		}
		m := moveOf(&events[i].Event, began)
		m.Crosses = events[i].Crosses
		c.Events = append(c.Events, m)
	}
	return c
}

var errEnough = errors.New("no more is needed")

// readCut collects a cut from the journals as far as they go back, and from the record; recordFirst prefers
// the record, which also has what no journal holds: crashes and pauses.
func readCut(ctx context.Context, dir string, names []string, id uint64, recordFirst bool) (best []record.Drawn, left uint64, missing []string, err error) {
	journals := func(see func(*record.Event) error) error {
		follower := record.Follow(dir, names, false)
		defer follower.Close()
		return follower.Poll(see)
	}
	file := func(see func(*record.Event) error) error {
		err := record.ReadFile(filepath.Join(dir, record.EventsFile), func(record.Header) error { return nil }, see)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	sources := []func(func(*record.Event) error) error{journals, file}
	if recordFirst {
		slices.Reverse(sources)
	}
	for i, source := range sources {
		cut := record.NewCut(id, names, record.DefaultDrawn)
		err := source(func(e *record.Event) error {
			if cut.Add(e) {
				return errEnough
			}
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, errEnough) {
			return nil, 0, nil, err
		}
		if e, l, m := cut.Result(); i == 0 || len(m) < len(missing) {
			best, left, missing = e, l, m
		}
		if len(missing) == 0 {
			break
		}
	}
	return best, left, missing, nil
}
