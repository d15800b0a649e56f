package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/record"
)

// address is where the dashboard of a launcher is.
func (r *running) address() string {
	r.t.Helper()
	for line := range r.lines {
		if _, address, ok := strings.Cut(line, "dashboard: "); ok {
			return address
		}
	}
	r.t.Fatal("the launcher ended without a dashboard")
	return ""
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %s", url, r.Status, err, body)
	}
	return body
}

// TestRecord: a recorded bank whose branches are killed, and then the launcher, without which they go on. The metrics are all
// there; the diagram of each snapshot has exactly the crossing messages that the channels counted; and the
// record has, before each cut, exactly what the snapshot says was sent and received there.
func TestRecord(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start("--record=shiviz", "--http", "127.0.0.1:0")
	url := r.address()
	r.until(`^snapshot 3 `)
	for _, name := range []string{"branch2", "branch4"} {
		for _, pid := range b.pids(name + "\x00") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		r.until(` is back after `)
		r.until(`^snapshot \d+ .* = 4000 ✓`)
	}
	checkMetrics(t, get(t, url+"/metrics"))
	cuts := 0
	crossing := 0
	for _, line := range snapshots(t, b) {
		if line.Status == controller.Consistent {
			cuts++
			crossing += checkCut(t, url, line)
		}
	}
	if cuts < 5 || crossing == 0 {
		t.Errorf("%d diagrams with %d crossing messages", cuts, crossing)
	}
	if err := r.cmd.Process.Kill(); err != nil { // the launcher
		t.Fatal(err)
	}
	for range r.lines {
	}
	_ = r.cmd.Wait()
	b.run(0, "--record=shiviz", "--snapshots", "3")
	checkRecord(t, b)
	checkReplay(t, b)
	schema := jsonschema.NewCompiler()
	valid, err := schema.Compile("../../docs/snapshot.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines(t, b, controller.HistoryFile) {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err == nil {
			err = valid.Validate(value)
		}
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
		}
	}
}

func lines(t *testing.T, b *bank, file string) (list [][]byte) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "data", "branches.txt-4000", file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		list = append(list, line)
	}
	return list
}

func snapshots(t *testing.T, b *bank) (list []controller.Record) {
	t.Helper()
	for _, line := range lines(t, b, controller.HistoryFile) {
		var r controller.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// checkCut holds the diagram of a snapshot against its record, both ways.
func checkCut(t *testing.T, url string, r controller.Record) (crossing int) {
	t.Helper()
	var cut dashboard.Cut
	if err := json.Unmarshal(get(t, fmt.Sprintf("%s/api/cut/%d", url, r.SnapshotID)), &cut); err != nil {
		t.Fatal(err)
	}
	if len(cut.Missing) != 0 {
		t.Fatalf("snapshot %d: without %v", r.SnapshotID, cut.Missing)
	}
	if cut.LeftOut > 0 { // a branch stood still for seconds, and the others paid on
		t.Logf("snapshot %d is not compared: %d events are left out", r.SnapshotID, cut.LeftOut)
		return 0
	}
	count, money, recorded := map[string]uint64{}, map[string]uint64{}, map[string]int{}
	sends := map[string]int{}
	for i, e := range cut.Events {
		switch {
		case e.Kind == record.Recorded && e.SnapshotID == r.SnapshotID:
			recorded[e.Branch] = i
		case e.Crosses && e.Kind == record.Send:
			sends[fmt.Sprint(e.Branch, e.Peer, e.N)] = i
		case e.Crosses:
			crossing++
			count[e.Peer+e.Branch]++
			money[e.Peer+e.Branch] += e.Money
			sent, ok := sends[fmt.Sprint(e.Peer, e.Branch, e.N)]
			if at, over := recorded[e.Peer]; !ok || over && sent > at {
				t.Errorf("snapshot %d: %v crosses, but was not sent before the cut of %s", r.SnapshotID, e, e.Peer)
			}
		}
	}
	for _, c := range r.Channels {
		if count[c.Src+c.Dst] != c.Count || money[c.Src+c.Dst] != c.Amount {
			t.Errorf("snapshot %d: %s->%s counted %d of %d, the diagram has %d of %d",
				r.SnapshotID, c.Src, c.Dst, c.Count, c.Amount, count[c.Src+c.Dst], money[c.Src+c.Dst])
		}
	}
	return crossing
}

// checkRecord counts transfers up to each cut in the record, and compares with what the snapshots say.
func checkRecord(t *testing.T, b *bank) {
	t.Helper()
	sent, received, kinds, own := map[string]uint64{}, map[string]uint64{}, map[string]int{}, map[string]uint64{}
	type end struct{ sent, received map[string]uint64 }
	at := map[string]end{} // by branch and snapshot: the counts at the recording
	last := map[string]uint64{}
	copied := func(m map[string]uint64) map[string]uint64 {
		c := map[string]uint64{}
		for k, v := range m {
			c[k] = v
		}
		return c
	}
	path := filepath.Join(b.dir, "data", "branches.txt-4000", record.EventsFile)
	err := record.ReadFile(path, func(record.Header) error { return nil }, func(e *record.Event) error {
		kinds[e.Kind]++
		own[e.Branch]++
		if e.Clock[e.Branch] != own[e.Branch] {
			t.Fatalf("%s: %s: clock %v at its event %d", e.Branch, e, e.Clock, own[e.Branch])
		}
		if e.N > 0 {
			key := e.Branch + e.Src() + e.Dst()
			if e.N != last[key]+1 {
				t.Fatalf("%s: %s after number %d", e.Branch, e, last[key])
			}
			last[key] = e.N
		}
		switch e.Kind {
		case record.Send:
			sent[e.Src()+e.Dst()]++
		case record.Receive:
			received[e.Src()+e.Dst()]++
		case record.Recorded:
			at[fmt.Sprint(e.Branch, e.SnapshotID)] = end{copied(sent), copied(received)}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if kinds[record.Crash] < 2 || kinds[record.Recovered] < 2 || kinds[record.Start] != 4 || kinds[record.Gap] != 0 {
		t.Errorf("kinds of events: %v", kinds)
	}
	for _, r := range snapshots(t, b) {
		for _, c := range r.Channels {
			s, d := at[fmt.Sprint(c.Src, r.SnapshotID)].sent[c.Src+c.Dst], at[fmt.Sprint(c.Dst, r.SnapshotID)].received[c.Src+c.Dst]
			if s != c.Sent || d != c.Received {
				t.Errorf("snapshot %d: %s->%s: the record has %d sent and %d received before the cut, the snapshot %d and %d",
					r.SnapshotID, c.Src, c.Dst, s, d, c.Sent, c.Received)
			}
		}
	}
	log := lines(t, b, record.ShiVizFile)
	if string(log[0]) != "(?<host>\\S+) (?<clock>{.*}) (?<date>\\S+) (?<event>.*)\n" || string(log[1]) != "\n" || len(log) < 100 {
		t.Errorf("%d lines for ShiViz, first %q", len(log), log[0])
	}
}

// names of the metrics, as the README lists them.
const metricNames = `build_info total_money branch_balance_money channel_in_transit_money transfers_sent_total
transfers_received_total money_sent_total money_received_total snapshots_total snapshot_duration_seconds
snapshot_imbalance_money snapshot_last_success_timestamp_seconds branch_up branch_state branch_restarts_total
branch_recovery_seconds journal_sync_seconds`

func checkMetrics(t *testing.T, body []byte) {
	t.Helper()
	found := map[string]bool{}
	values := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		if name, ok := strings.CutPrefix(s.Text(), "# TYPE cutbank_"); ok {
			found[strings.Fields(name)[0]] = true
		} else if i := strings.LastIndexByte(s.Text(), ' '); i > 0 {
			values[s.Text()[:i]] = s.Text()[i+1:]
		}
	}
	for _, name := range strings.Fields(metricNames) {
		if !found[name] {
			t.Errorf("no metric cutbank_%s", name)
		}
	}
	if len(found) != len(strings.Fields(metricNames)) {
		t.Errorf("%d metrics: %v", len(found), found)
	}
	for series, want := range map[string]string{
		"cutbank_total_money":                                             "4000",
		"cutbank_snapshot_imbalance_money":                                "0",
		`cutbank_snapshots_total{status="inconsistent"}`:                  "0",
		`cutbank_branch_restarts_total{branch="branch2",reason="killed"}`: "1",
		`cutbank_branch_state{branch="branch1",state="failed"}`:           "0",
	} {
		if values[series] != want {
			t.Errorf("%s is %q, not %s", series, values[series], want)
		}
	}
	promtool(t, bytes.NewReader(body), "check", "metrics")
}

// promtool runs it, or says that it is not there.
func promtool(t *testing.T, stdin io.Reader, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not installed (Debian: prometheus)")
		}
		t.Log("SKIPPED: promtool is not installed (Debian: prometheus)")
		return
	}
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Stdin, cmd.WaitDelay = stdin, time.Minute
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

// TestMonitoring: the example for Prometheus is valid, and its alerts fire when they should.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	promtool(t, nil, "check", "config", "../../examples/monitoring/prometheus.yml")
	promtool(t, nil, "test", "rules", "../../examples/monitoring/alerts_test.yml")
}
