package record

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const twoBranches = `{"schema":"cutbank.events/1","total":2000,"branches":["a","b"]}
`

// line is an event at a time in ms.
func line(ms, rest string) string {
	return `{"at":"2026-01-01T00:00:00.` + ms + `Z","balance":1000,` + rest + "}\n"
}

func load(t *testing.T, text string) (*History, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), EventsFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

// zeros makes a file that takes no room.
func zeros(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}

// TestLoadBad: what is wrong with a record, and in which line.
func TestLoadBad(t *testing.T) {
	start := line("001", `"branch":"a","kind":"start"`)
	for text, want := range map[string]string{
		"":                                     "has no events",
		twoBranches:                            "has no events",
		"{}\n":                                 `:1: has the schema ""`,
		"snapshot_id: 3\n":                     ":1: invalid character",
		`{"schema":"cutbank.events/2"}` + "\n": `:1: has the schema "cutbank.events/2"`,
		`{"schema":"cutbank.events/1","total":2,"branches":["a"]}` + "\n":  ":1: names 1 branches with a total of 2",
		`{"schema":"cutbank.events/1","branches":["a","b"]}` + "\n":        ":1: names 2 branches with a total of 0",
		twoBranches + start + "nonsense\n":                                 ":3: invalid character",
		twoBranches + start + strings.Repeat("x", maxLine) + "\n":          ":3: the line is longer than",
		twoBranches + line("001", `"branch":"c","kind":"start"`):           `:2: is of the branch "c"`,
		twoBranches + line("001", `"branch":"a","kind":"robbery"`):         `:2: "robbery" is no kind`,
		twoBranches + line("001", `"branch":"a","kind":"b"`):               `:2: "b" is no kind`,
		twoBranches + line("001", `"branch":"send","kind":"send"`):         `:2: is of the branch "send"`,
		twoBranches + line("001", `"branch":"a","kind":"send"`):            `:2: is between "a" and ""`,
		twoBranches + line("001", `"branch":"a","kind":"send","peer":"a"`): `:2: is between "a" and "a"`,
		twoBranches + `{"branch":"a","kind":"start"}` + "\n":               ":2: has no time",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text[:min(len(text), 200)], err, want)
		}
	}
	dir := t.TempDir()
	for name, test := range map[string]struct {
		make func(path string) error
		want string
	}{
		"link":  {func(path string) error { return os.Symlink(EventsFile, path) }, "link is a symbolic link: name the file that it leads to"},
		"pipe":  {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "pipe is no regular file"},
		"dir":   {func(path string) error { return os.Mkdir(path, 0o700) }, "dir is no regular file"},
		"full":  {func(path string) error { return zeros(path, MaxFileBytes) }, "full:1: the line is longer"}, // it was read
		"large": {func(path string) error { return zeros(path, MaxFileBytes+1) }, "large has 256 MiB: a record has 256 at most"},
	} {
		path := filepath.Join(dir, name)
		if err := test.make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	for n, want := range map[int]string{MaxBranches: "has no events", MaxBranches + 1: ":1: names 65 branches with a total of 9: a record is of 2 to 64"} {
		h := Header{Total: 9, Branches: make([]string, n)}
		if _, err := load(t, string(h.line())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d branches: %v, want %s", n, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "--record makes one") {
		t.Error(err)
	}
}

// TestHistory: two branches, a snapshot with money in transit, one that began before the record, a crash.
func TestHistory(t *testing.T) {
	h, err := load(t, twoBranches+
		line("001", `"branch":"a","kind":"start"`)+
		line("002", `"branch":"b","kind":"start"`)+
		line("003", `"branch":"a","kind":"marker_received","peer":"b","n":1,"snapshot_id":1`)+ // its recording was before
		line("004", `"branch":"b","kind":"marker_received","peer":"a","n":1,"snapshot_id":1`)+
		line("005", `"branch":"a","kind":"send","peer":"b","money":7,"n":2`)+
		line("006", `"branch":"b","kind":"record","snapshot_id":2`)+
		line("006", `"branch":"b","kind":"marker_sent","peer":"a","n":2,"snapshot_id":2`)+
		line("008", `"branch":"a","kind":"marker_received","peer":"b","n":2,"snapshot_id":2`)+
		line("008", `"branch":"a","kind":"record","snapshot_id":2`)+
		line("008", `"branch":"a","kind":"marker_sent","peer":"b","n":3,"snapshot_id":2`)+
		line("007", `"branch":"b","kind":"receive","peer":"a","money":7,"n":2`)+ // a's clock is ahead
		line("009", `"branch":"b","kind":"marker_received","peer":"a","n":3,"snapshot_id":2`)+
		line("010", `"branch":"b","kind":"crash","text":"killed"`)+
		line("020", `"branch":"b","kind":"recovered"`)+
		`{"at":"cut off`)
	if err != nil {
		t.Fatal(err)
	}
	if h.Len() != 14 || h.Ended()-h.Began() != 19_000 || h.Until(h.Began()-1) != 0 || h.Until(h.Began()) != 1 || h.Until(h.Ended()) != 14 {
		t.Errorf("%d events in %d µs", h.Len(), h.Ended()-h.Began())
	}
	if !slices.IsSorted(h.at) || h.at[10] != h.at[9] {
		t.Errorf("times go back: %v", h.at)
	}
	if len(h.Taken) != 1 {
		t.Fatalf("%d snapshots", len(h.Taken))
	}
	s := h.Taken[0]
	if s.ID != 2 || s.Initiator != "b" || s.Position != 12 || s.Ended-s.Began != 3000 || s.Parts[0].FirstFrom != "b" || s.Parts[1].FirstFrom != "" {
		t.Errorf("%+v", s)
	}
	if c := s.Channel(0, 1); c.Money != 7 || c.Count != 1 || c.Sent != 1 || c.Received != 0 {
		t.Errorf("%+v", c)
	}
	if c := s.Channel(1, 0); c.Money != 0 || c.Sent != 0 {
		t.Errorf("%+v", c)
	}
	books := NewBooks(h.Branches)
	for i := range h.Len() {
		books.Add(h.Event(i))
	}
	if b := books.Accounts[1]; b.Starts != 2 || b.Restarts != 1 || b.LastExit != "killed" || b.Kind != Recovered || b.Balance != 1000 {
		t.Errorf("%+v", b)
	}
	if f := *books.Flow(0, 1); f != (Flow{SentCount: 1, SentMoney: 7, ReceivedCount: 1, ReceivedMoney: 7, MarkersSent: 1, MarkersReceived: 1}) {
		t.Errorf("%+v", f)
	}
}

// TestGapInASnapshot: of a snapshot that was in progress when events went missing nothing is said.
func TestGapInASnapshot(t *testing.T) {
	b := NewBooks([]string{"a", "b"})
	add := func(e Event) *Taken { return b.Add(&e) }
	cut := func(gap bool) (done *Taken) {
		add(Event{Branch: "a", Kind: Recorded, SnapshotID: 1, At: 1})
		if gap {
			add(Event{Branch: "b", Kind: Gap, At: 2})
		}
		add(Event{Branch: "b", Kind: Recorded, SnapshotID: 1, At: 3})
		add(Event{Branch: "b", Kind: MarkerReceived, Peer: "a", SnapshotID: 1, At: 3})
		return add(Event{Branch: "a", Kind: MarkerReceived, Peer: "b", SnapshotID: 1, At: 4})
	}
	if cut(true) != nil {
		t.Error("complete across a gap")
	}
	b = NewBooks([]string{"a", "b"})
	if cut(false) == nil {
		t.Error("never complete without one")
	}
}

// TestFlowAfterAGap: what is on its way is not known after a gap, and known again behind the next marker.
func TestFlowAfterAGap(t *testing.T) {
	b := NewBooks([]string{"a", "b", "c"})
	check := func(gap bool, money uint64) {
		t.Helper()
		if f := b.Flow(0, 1); f.Gap != gap || !gap && f.SentMoney-f.ReceivedMoney != money {
			t.Errorf("%+v, want a gap %v or %d on its way", f, gap, money)
		}
	}
	pay := func(money, n uint64) { b.Add(&Event{Branch: "a", Kind: Send, Peer: "b", Money: money, N: n}) }
	pay(5, 1)
	check(false, 5)
	b.Add(&Event{Branch: "b", Kind: Gap}) // it has received the 5
	check(true, 0)
	if b.Flow(0, 2).Gap || !b.Flow(1, 2).Gap {
		t.Error("a gap of b is none between a and c")
	}
	pay(7, 2)
	b.Add(&Event{Branch: "a", Kind: Recorded, SnapshotID: 1, At: 1})
	b.Add(&Event{Branch: "a", Kind: MarkerSent, Peer: "b", N: 3, SnapshotID: 1})
	pay(11, 4)
	check(true, 0)
	b.Add(&Event{Branch: "b", Kind: MarkerReceived, Peer: "a", N: 3, SnapshotID: 1})
	check(false, 11)
}
