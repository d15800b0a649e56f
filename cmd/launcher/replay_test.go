package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/record"
)

// replay starts the launcher on a record.
func (b *bank) replay(file string) *running {
	b.t.Helper()
	cmd := b.command()
	cmd.Args = []string{cmd.Path, "--replay", file, "--http", "127.0.0.1:0"}
	return b.launch(cmd)
}

// at moves a replay, stops it there, and reads what the page is told first.
func at(t *testing.T, url string, ms int64) (h dashboard.Hello, s dashboard.State) {
	t.Helper()
	r, err := http.Post(url+"/api/replay", "application/json", strings.NewReader(fmt.Sprintf(`{"to_ms":%d,"speed":0}`, ms)))
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatal(r, err)
	}
	_ = r.Body.Close()
	if r, err = http.Get(url + "/api/stream"); err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewReader(r.Body); s.Branches == nil; {
		line, err := lines.ReadBytes('\n')
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		switch {
		case err != nil:
			t.Fatal(err)
		case !ok:
		case h.Schema == "":
			err = json.Unmarshal(data, &h)
		default:
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return h, s
}

// checkReplay: the record of a bank tells of each snapshot what the bank itself told, with the same diagram; at
// every moment the books balance to the unit; and the time can be moved both ways.
func checkReplay(t *testing.T, b *bank) {
	t.Helper()
	r := b.replay(filepath.Join("data", "branches.txt-4000", record.EventsFile))
	r.until(`^\d+ events of 4 branches, \d+ whole snapshots, `)
	url := r.address()
	last, crashed := 0, false
	for _, told := range snapshots(t, b) {
		if told.Status != controller.Consistent {
			continue
		}
		var replayed controller.Record
		if err := json.Unmarshal(get(t, fmt.Sprintf("%s/api/snapshots/%d", url, told.SnapshotID)), &replayed); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(told, replayed, cmpopts.IgnoreFields(told, "BankID", "StartedAt", "DurationMS", "Restarts"),
			cmpopts.IgnoreFields(controller.BranchRecord{}, "RecordedAt", "CompletedAt")); diff != "" {
			t.Errorf("snapshot %d, told and replayed:\n%s", told.SnapshotID, diff)
		}
		checkCut(t, url, told)
		last++
	}
	h, s := at(t, url, 1<<40)
	if !h.Replay || h.Controls || h.Total != 4000 || s.AtMS != h.DurationMS {
		t.Errorf("%+v at %d", h, s.AtMS)
	}
	for i := int64(10); i >= 0; i-- {
		_, s := at(t, url, h.DurationMS*i/10)
		sum := s.NaiveSum
		started := true
		for _, c := range s.Channels {
			sum += c.InTransit
		}
		for _, b := range s.Branches {
			started = started && b.State != "starting"
			crashed = crashed || b.Restarts > 0
		}
		if started && sum != 4000 || len(s.Channels) != 12 {
			t.Errorf("after %d of 10: %d in branches and on %d channels", i, sum, len(s.Channels))
		}
		var list []controller.Record
		if err := json.Unmarshal(get(t, url+"/api/snapshots?limit=500"), &list); err != nil {
			t.Fatal(err)
		}
		// At the end all that were told, and those that became complete when no launcher was there to tell.
		if i == 10 && len(list) < min(last, 500) || i < 10 && len(list) > last || i == 0 && len(list) > 0 {
			t.Errorf("after %d of 10: %d snapshots of %d", i, len(list), last)
		}
		last = len(list)
	}
	if !crashed {
		t.Error("no branch was seen to come back")
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range r.lines {
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestReplayArguments: what can't be replayed is refused with what to do.
func TestReplayArguments(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), record.EventsFile)
	if err := os.WriteFile(file, []byte("snapshot_id: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--replay", file}, file + ":1: invalid character"},
		{[]string{"--replay", filepath.Dir(file)}, file + ":1: invalid character"},
		{[]string{"--replay", file + "x"}, "--record makes one"},
		{[]string{"--replay", file, "4000", "branches.txt"}, "leave out"},
		{[]string{"--replay", file, "--chaos", "2s"}, "--chaos is of a bank that runs"},
		{[]string{"--replay", file, "--http", ""}, "it needs --http"},
	} {
		err := run(t.Context(), nil, c.args, &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != 2 {
			t.Errorf("%v: %v, exit code %d; want %s", c.args, err, exitCode(err), c.want)
		}
	}
}

// TestSampler: of too many transfers fewer are shown, both ends of one or none, and markers always; what is not is
// counted. When all are left out there is still a list.
func TestSampler(t *testing.T) {
	var s sampler
	began := time.UnixMicro(0)
	pass := func(from, n uint64) dashboard.Moves {
		for i := from; i < from+n; i++ {
			for _, kind := range []string{record.Send, record.Receive} {
				s.add(&record.Event{Kind: kind, Branch: "a", Peer: "b", N: i}, began)
			}
		}
		s.add(&record.Event{Kind: record.MarkerSent, Branch: "a", Peer: "b", N: from + n}, began)
		return s.take(7)
	}
	if m := pass(1, 10); len(m.Events) != 21 || m.LeftOut != 0 || m.AtMS != 7 {
		t.Errorf("of 10: %d shown, %d left out", len(m.Events), m.LeftOut)
	}
	for range 10 {
		pass(1, 5000)
	}
	m := pass(1, 5000)
	sends := 0
	for _, e := range m.Events {
		if e.Kind == record.Send {
			sends++
		}
	}
	if shown := len(m.Events) - 1; shown > maxMoves || shown != 2*sends || m.LeftOut != 5000-uint64(sends) {
		t.Errorf("of 5000: %d shown of which %d sends, %d left out", shown, sends, m.LeftOut)
	}
	s.add(&record.Event{Kind: record.Send, Branch: "a", Peer: "b", N: 1}, began)
	if text, err := json.Marshal(s.take(0)); err != nil || !strings.Contains(string(text), `"left_out":1,"events":[]`) {
		t.Errorf("%s %v", text, err)
	}
}
