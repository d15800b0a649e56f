package record_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"cutbank/internal/record"
)

// TestShiViz: the log has so many events, and says when there were more.
func TestShiViz(t *testing.T) {
	dir := t.TempDir()
	var text bytes.Buffer
	add := func(v any) {
		line, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(line, '\n'))
	}
	add(record.Header{Schema: record.Schema, Total: 10, Branches: []string{"a", "b"}})
	for range record.MaxShiVizLogs {
		add(record.Event{At: 1, Branch: "a", Kind: record.Start})
	}
	for _, more := range []bool{false, true} {
		if err := os.WriteFile(filepath.Join(dir, record.EventsFile), text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		cut, err := record.ShiViz(dir)
		log, _ := os.ReadFile(filepath.Join(dir, record.ShiVizFile))
		if n := bytes.Count(log, []byte("\n")) - 2; cut != more || err != nil || n != record.MaxShiVizLogs {
			t.Errorf("%d events, cut %v: %v", n, cut, err)
		}
		add(record.Event{At: 1, Branch: "a", Kind: record.Start})
	}
}

// TestDrawn: a diagram has so many events besides the markers, and counts those that it leaves out.
func TestDrawn(t *testing.T) {
	cut := record.NewCut(1, []string{"a", "b"}, record.DefaultDrawn)
	cut.Add(&record.Event{Branch: "a", Kind: record.Recorded, SnapshotID: 1})
	for i := uint64(2); i <= record.DefaultDrawn+1; i++ {
		_, left, _ := cut.Result()
		if cut.Add(&record.Event{Branch: "a", Peer: "b", Kind: record.Send, N: i}); left > 0 {
			t.Fatalf("event %d: %d left out", i, left)
		}
	}
	cut.Add(&record.Event{Branch: "a", Peer: "b", Kind: record.MarkerSent, SnapshotID: 1})
	if list, left, _ := cut.Result(); len(list) != record.DefaultDrawn+1 || left != 1 {
		t.Errorf("%d drawn, %d left out", len(list), left)
	}
}
