package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cutbank/internal/controller"
	"cutbank/internal/record"
)

// drawn is a snapshot of three branches with one transfer across the cut, and the events around it.
func drawn(t *testing.T) (r controller.Record, names []string, events []record.Drawn, left uint64) {
	t.Helper()
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(ms int) string { return began.Add(time.Duration(ms) * time.Millisecond).Format(time.RFC3339Nano) }
	names = []string{"lyon", "oslo", "tromso-2"}
	r = controller.Record{
		SnapshotID: 7, Initiator: "oslo", Status: controller.Consistent, DurationMS: 20, Total: 300, InBranches: 290, InTransit: 10,
		Branches: []controller.BranchRecord{
			{Name: "lyon", Balance: 80, RecordedAt: at(10), FirstMarkerFrom: "oslo"},
			{Name: "oslo", Balance: 105, RecordedAt: at(0)},
			{Name: "tromso-2", Balance: 105, RecordedAt: at(5), FirstMarkerFrom: "oslo"},
		},
		Channels: []controller.ChannelRecord{{Src: "lyon", Dst: "oslo", Amount: 10, Count: 1, Sent: 4, Received: 3}, {Src: "oslo", Dst: "lyon", Sent: 2, Received: 2}},
	}
	cut := record.NewCut(7, names, record.DefaultDrawn)
	add := func(ms int, branch, kind, peer string, money, n, balance uint64) {
		e := record.Event{At: record.Time(began.Add(time.Duration(ms) * time.Millisecond).UnixMicro()), Branch: branch, Kind: kind, Peer: peer, Money: money, N: n, Balance: balance}
		if money == 0 && kind != record.Crash {
			e.SnapshotID = 7
		}
		cut.Add(&e)
	}
	add(-9, "lyon", record.Send, "tromso-2", 5, 1, 90)
	add(-6, "lyon", record.Send, "oslo", 10, 4, 80)
	add(-4, "tromso-2", record.Receive, "lyon", 5, 1, 105)
	add(0, "oslo", record.Recorded, "", 0, 0, 105)
	add(0, "oslo", record.MarkerSent, "lyon", 0, 3, 105)
	add(0, "oslo", record.MarkerSent, "tromso-2", 0, 1, 105)
	add(5, "tromso-2", record.MarkerReceived, "oslo", 0, 1, 105)
	add(5, "tromso-2", record.Recorded, "", 0, 0, 105)
	add(5, "tromso-2", record.MarkerSent, "lyon", 0, 1, 105)
	add(5, "tromso-2", record.MarkerSent, "oslo", 0, 1, 105)
	add(7, "oslo", record.Receive, "lyon", 10, 4, 115)
	add(10, "lyon", record.MarkerReceived, "oslo", 0, 3, 80)
	add(10, "lyon", record.Recorded, "", 0, 0, 80)
	add(10, "lyon", record.MarkerSent, "oslo", 0, 5, 80)
	add(10, "lyon", record.MarkerSent, "tromso-2", 0, 2, 80)
	add(12, "lyon", record.MarkerReceived, "tromso-2", 0, 1, 80)
	add(13, "tromso-2", record.Crash, "", 0, 0, 105)
	add(15, "oslo", record.MarkerReceived, "tromso-2", 0, 1, 115)
	add(18, "oslo", record.MarkerReceived, "lyon", 0, 5, 115)
	add(20, "tromso-2", record.MarkerReceived, "lyon", 0, 2, 105)
	events, left, missing := cut.Result()
	if len(missing) > 0 {
		t.Fatal(missing)
	}
	return r, names, events, left
}

// TestShowDrawing: the text of ./launcher show.
func TestShowDrawing(t *testing.T) {
	r, names, events, left := drawn(t)
	got := drawCut(&r) + drawEvents(names, events, r.SnapshotID, left+3)
	var trimmed strings.Builder
	for line := range strings.Lines(got) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	path := filepath.Join("testdata", "show.golden")
	if os.Getenv("CUTBANK_TEST_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(trimmed.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), trimmed.String()); diff != "" {
		t.Errorf("not %s (CUTBANK_TEST_UPDATE=1 writes it):\n%s", path, diff)
	}
}

// TestShowSVG: the picture is whole XML, with every crossing message marked and names that are no markup.
func TestShowSVG(t *testing.T) {
	r, names, events, _ := drawn(t)
	svg := drawSVG(&r, names, events)
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
	}
	for text, n := range map[string]int{`stroke="#e8590c"`: 1, "<circle": 3, "<polyline": 1, ">kill -9<": 1, ">tromso-2<": 1} {
		if got := strings.Count(svg, text); got != n {
			t.Errorf("%d of %s, want %d\n%s", got, text, n, svg)
		}
	}
}

// TestLastBank: of several banks the one that took a snapshot last is shown, not one that has none yet.
func TestLastBank(t *testing.T) {
	t.Chdir(t.TempDir())
	if got := lastBank(); got != "" {
		t.Errorf("%q, of none", got)
	}
	for i, name := range []string{"b", "c", "a", "new"} {
		file := filepath.Join("data", name, controller.HistoryFile)
		at := time.Date(2026, 1, 1, 12, i%2, 0, 0, time.UTC)
		content := "{}\n"
		if name == "new" {
			at, content = at.Add(time.Hour), ""
		}
		err := os.MkdirAll(filepath.Dir(file), 0o700)
		if err == nil {
			err = os.WriteFile(file, []byte(content), 0o600)
		}
		if err == nil {
			err = os.Chtimes(file, at, at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := lastBank(); got != filepath.Join("data", "c") {
		t.Errorf("%q", got)
	}
}
