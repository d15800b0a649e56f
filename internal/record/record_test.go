package record_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/ledger"
	"cutbank/internal/record"
	"cutbank/internal/snapshot"
)

// world is a bank without processes: ledgers, their journals, and channels between them.
type world struct {
	t       *testing.T
	dir     string
	random  *rand.Rand
	names   []string
	ledgers []*ledger.Ledger
	books   []*journal.Journal
	now     int64
	lastID  uint64
	cuts    map[uint64][]*snapshot.Recording // by id, by branch
}

func newWorld(t *testing.T, n int, seed uint64) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(seed, 0)), now: 1_800_000_000_000_000, cuts: map[uint64][]*snapshot.Recording{}}
	plan := ledger.Plan{Total: uint64(1000 * n)}
	for i := range n {
		w.names = append(w.names, fmt.Sprintf("branch%d", i+1))
		plan.Names, plan.Balances = w.names, append(plan.Balances, 1000)
	}
	w.ledgers, w.books = make([]*ledger.Ledger, n), make([]*journal.Journal, n)
	for i := range n {
		w.start(i)
		var out ledger.Output
		if err := w.ledgers[i].Open(&out, plan, w.names[i], make([]string, n)); err != nil {
			t.Fatal(err)
		}
		w.ledgers[i].Start(&out)
		w.commit(i, &out)
	}
	t.Cleanup(func() {
		for _, j := range w.books {
			_ = j.Close()
		}
	})
	return w
}

// start recovers a branch from its directory.
func (w *world) start(i int) {
	w.t.Helper()
	fs, err := journal.Dir(filepath.Join(w.dir, w.names[i]))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ledgers[i] = new(ledger.Ledger)
	j, err := journal.Open(fs, journal.Config{SegmentBytes: 2048, Sync: journal.OS})
	if err == nil {
		err = j.Recover(w.ledgers[i].Load, w.ledgers[i].Replay)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.books[i] = j
}

func (w *world) commit(i int, out *ledger.Output) {
	w.t.Helper()
	if len(out.Persist) > 0 {
		if err := w.books[i].Commit(ledger.Stamp(out.Persist, w.now)); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, id := range out.Completed {
		if w.cuts[id] == nil {
			w.cuts[id] = make([]*snapshot.Recording, len(w.names))
		}
		w.cuts[id][i], _ = w.ledgers[i].Snapshot(id)
	}
}

// step lets something happen somewhere: a batch of transfers, arrivals, acknowledgements, a snapshot, a
// restart.
func (w *world) step() {
	w.t.Helper()
	n := len(w.names)
	i := w.random.IntN(n)
	j := (i + 1 + w.random.IntN(n-1)) % n
	l := w.ledgers[i]
	w.now += int64(w.random.IntN(1000))
	var out ledger.Output
	switch k := w.random.IntN(100); {
	case k < 45:
		for range 1 + w.random.IntN(5) {
			_ = l.Transfer(&out, j, 1+w.random.Uint64N(20), 0, 50) // short or full: nothing happens
		}
	case k < 85:
		from := l.Received(j) + 1
		var items []ledger.Item
		for m := from; m <= w.ledgers[j].Sent(i) && w.random.IntN(5) > 0; m++ {
			items = append(items, w.ledgers[j].Item(i, m))
		}
		if err := l.Receive(&out, j, from, items, w.now); err != nil {
			w.t.Fatal(err)
		}
	case k < 93:
		if err := l.Acknowledge(&out, j, w.ledgers[j].Received(i)); err != nil {
			w.t.Fatal(err)
		}
	case k < 97:
		if l.SnapshotsInProgress() < 3 {
			w.lastID++
			if err := l.Initiate(&out, w.lastID, w.now); err != nil {
				w.t.Fatal(err)
			}
		}
	default:
		if err := w.books[i].Close(); err != nil {
			w.t.Fatal(err)
		}
		w.start(i)
		w.ledgers[i].Start(&out)
	}
	w.commit(i, &out)
}

func (w *world) checkpoint() {
	w.t.Helper()
	for i, j := range w.books {
		if err := j.Checkpoint(w.ledgers[i].Checkpoint(nil)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// recorder is a follower and its file.
type recorder struct {
	w *world
	f *record.Follower
	r *record.File
}

func (w *world) recorder(limit int64) *recorder {
	w.t.Helper()
	f := record.Follow(w.dir, w.names, true)
	r, err := record.OpenFile(w.dir, record.Header{Total: 1000, Branches: w.names}, f, limit)
	if err != nil {
		w.t.Fatal(err)
	}
	return &recorder{w, f, r}
}

func (r *recorder) poll() error {
	err := r.f.Poll(r.r.Append)
	if err == nil {
		err = r.r.Flush()
	}
	return err
}

func (r *recorder) close() {
	r.f.Close()
	if err := r.r.Close(); err != nil {
		r.w.t.Fatal(err)
	}
}

func (w *world) events() (list []*record.Event) {
	w.t.Helper()
	err := record.ReadFile(filepath.Join(w.dir, record.EventsFile), func(record.Header) error { return nil },
		func(e *record.Event) error { list = append(list, e); return nil })
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// TestCompleteAndOnce: while branches pay, restart and make checkpoints, and the recorder is killed at any
// byte of its file, the record has every event once, each branch's in its own order, every receive after
// its send and with a clock that is past it.
func TestCompleteAndOnce(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, 3, seed)
			r := w.recorder(0)
			kills := 0
			for range 2500 {
				w.step()
				switch k := w.random.IntN(200); {
				case k < 20:
					if err := r.poll(); err != nil {
						t.Fatal(err)
					}
				case k == 20:
					if err := r.poll(); err != nil {
						t.Fatal(err)
					}
					w.checkpoint()
				case k == 21:
					r.f.Note(record.Event{At: record.Time(w.now), Branch: w.names[0], Kind: record.Crash, Text: "signal killed"})
				case k == 22: // killed: an end of the file is lost, perhaps in the middle of a line
					r.close()
					path := filepath.Join(w.dir, record.EventsFile)
					info, err := os.Stat(path)
					if err != nil {
						t.Fatal(err)
					}
					if lost := w.random.Int64N(2000); w.since(lost) {
						if err := os.Truncate(path, max(0, info.Size()-lost)); err != nil {
							t.Fatal(err)
						}
					}
					kills++
					r = w.recorder(0)
				}
			}
			if err := r.poll(); err != nil {
				t.Fatal(err)
			}
			r.close()
			if kills < 3 {
				t.Errorf("%d kills", kills)
			}
			w.check(w.events())
		})
	}
}

// since tells whether the end of the file that would be lost is still in the journals, so that nothing is
// really lost. Commits that a checkpoint has covered are not.
func (w *world) since(lost int64) bool {
	content, err := os.ReadFile(filepath.Join(w.dir, record.EventsFile))
	if err != nil {
		w.t.Fatal(err)
	}
	tail := string(content[max(0, int64(len(content))-lost-400):])
	for i, name := range w.names {
		fs, err := journal.ReadDir(filepath.Join(w.dir, w.names[i]))
		if err != nil {
			w.t.Fatal(err)
		}
		report, err := journal.Verify(fs, nil, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		if report.Checkpoint == nil {
			continue
		}
		for line := range strings.Lines(tail) {
			var commit uint64
			if _, after, ok := strings.Cut(line, `"commit":`); ok && strings.Contains(line, `"branch":"`+name+`"`) {
				fmt.Sscan(after, &commit)
			}
			if commit > 0 && commit <= report.Checkpoint.Last || strings.Contains(line, record.Crash) {
				return false
			}
		}
	}
	return true
}

// check holds the record against the ledgers.
func (w *world) check(list []*record.Event) {
	w.t.Helper()
	own := map[string]uint64{}
	balance := map[string]uint64{}
	last := map[string]uint64{} // by kind of end and channel: the last number
	clocks := map[string]record.Clock{}
	kinds := map[string]int{}
	for _, e := range list {
		kinds[e.Kind]++
		own[e.Branch]++
		if e.Clock[e.Branch] != own[e.Branch] {
			w.t.Fatalf("%s: its own clock is %d at its event %d", e, e.Clock[e.Branch], own[e.Branch])
		}
		item := fmt.Sprint(e.Src(), e.Dst(), e.N)
		switch e.Kind {
		case record.Start:
			balance[e.Branch] = 1000
		case record.Send, record.MarkerSent:
			balance[e.Branch] -= e.Money
			clocks[item] = e.Clock
			count(w.t, last, "sent "+e.Src()+e.Dst(), e)
		case record.Receive, record.MarkerReceived:
			balance[e.Branch] += e.Money
			sent := clocks[item]
			if sent == nil {
				w.t.Fatalf("%s: %s comes before its send", e.Branch, e)
			}
			for name, n := range sent {
				if e.Clock[name] < n {
					w.t.Fatalf("%s: %s: clock %v does not know %s %d of its send", e.Branch, e, e.Clock, name, n)
				}
			}
			count(w.t, last, "received "+e.Src()+e.Dst(), e)
		}
		if e.Balance != balance[e.Branch] {
			w.t.Fatalf("%s: %s leaves %d, not %d", e.Branch, e, e.Balance, balance[e.Branch])
		}
	}
	for i, l := range w.ledgers {
		for j := range w.ledgers {
			if i == j {
				continue
			}
			if sent, received := last["sent "+w.names[i]+w.names[j]], last["received "+w.names[j]+w.names[i]]; sent != l.Sent(j) || received != l.Received(j) {
				w.t.Errorf("%s and %s: the record ends with %d sent and %d received, the books with %d and %d",
					w.names[i], w.names[j], sent, received, l.Sent(j), l.Received(j))
			}
		}
	}
	for _, kind := range []string{record.Send, record.Receive, record.Recorded, record.MarkerSent, record.MarkerReceived, record.Start, record.Recovered} {
		if kinds[kind] < 3 {
			w.t.Errorf("%d events of kind %s", kinds[kind], kind)
		}
	}
	if kinds[record.Gap] != 0 {
		w.t.Errorf("%d gaps", kinds[record.Gap])
	}
}

func count(t *testing.T, last map[string]uint64, key string, e *record.Event) {
	t.Helper()
	if e.N != last[key]+1 {
		t.Fatalf("%s: %s after number %d", e.Branch, e, last[key])
	}
	last[key] = e.N
}

// TestGap: what was removed before it was read is missing, and said.
func TestGap(t *testing.T) {
	w := newWorld(t, 3, 7)
	for range 500 {
		w.step()
	}
	w.checkpoint()
	for range 500 {
		w.step()
	}
	r := w.recorder(0)
	for range 2 {
		if err := r.poll(); err != nil {
			t.Fatal(err)
		}
		r.close()
		for range 200 {
			w.step()
		}
		w.checkpoint()
		r = w.recorder(0)
	}
	for range 200 {
		w.step()
	}
	if err := r.poll(); err != nil {
		t.Fatal(err)
	}
	r.close()
	gaps, receives := 0, 0
	for _, e := range w.events() {
		switch e.Kind {
		case record.Gap:
			gaps++
		case record.Receive:
			receives++
		}
	}
	if gaps < 6 || receives < 300 {
		t.Errorf("%d gaps, %d receives", gaps, receives)
	}
}

// TestFull: at its most bytes the record says so and ends with a whole line.
func TestFull(t *testing.T) {
	w := newWorld(t, 2, 1)
	for range 300 {
		w.step()
	}
	r := w.recorder(10_000)
	if err := r.poll(); err == nil || !strings.Contains(err.Error(), record.ErrFull.Error()) {
		t.Fatalf("no end: %v", err)
	}
	r.close()
	if info, err := os.Stat(filepath.Join(w.dir, record.EventsFile)); err != nil || info.Size() > 10_000 {
		t.Fatal(info, err)
	}
	if len(w.events()) < 40 {
		t.Errorf("%d events", len(w.events()))
	}
}

// TestCut: of every snapshot, the messages that cross in the diagram are those that the channels counted,
// one by one, and each has its send in it.
func TestCut(t *testing.T) {
	w := newWorld(t, 4, 3)
	for range 6000 {
		w.step()
	}
	crossing, checked := 0, 0
	for id, parts := range w.cuts {
		if slices.Contains(parts, nil) || checked >= 40 {
			continue
		}
		checked++
		cut := record.NewCut(id, w.names, 100_000)
		f := record.Follow(w.dir, w.names, false)
		if err := f.Poll(func(e *record.Event) error { cut.Add(e); return nil }); err != nil {
			t.Fatal(err)
		}
		f.Close()
		list, left, missing := cut.Result()
		if left != 0 || len(missing) != 0 {
			t.Fatalf("snapshot %d: %d events, %d left out, without %v", id, len(list), left, missing)
		}
		count, money, sends := map[string]uint64{}, map[string]uint64{}, map[string]bool{}
		for i := range list {
			d := &list[i]
			item := fmt.Sprint(d.Src(), d.Dst(), d.N)
			switch {
			case d.Kind == record.Send:
				if sends[item] {
					t.Errorf("snapshot %d: %s twice", id, d)
				}
				sends[item] = d.Crosses
			case d.Crosses:
				crossing++
				if !sends[item] {
					t.Errorf("snapshot %d: %s crosses, and its send is not there before it", id, d)
				}
				count[d.Src()+d.Dst()]++
				money[d.Src()+d.Dst()] += d.Money
			}
		}
		for dst, r := range parts {
			for src := range w.names {
				if src == dst {
					continue
				}
				ch := w.names[src] + w.names[dst]
				if s := r.Channels[src].State; s.Count != count[ch] || s.Money != money[ch] {
					t.Errorf("snapshot %d: %s counted %d of %d, the diagram has %d of %d", id, ch, s.Count, s.Money, count[ch], money[ch])
				}
			}
		}
	}
	if checked < 20 || crossing < 100 {
		t.Errorf("%d snapshots with %d crossing messages", checked, crossing)
	}
}
