package controller_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"cutbank/internal/controller"
	"cutbank/proto/bankpb"
)

type local = bankpb.ReturnSnapshot_LocalSnapshot

// exact is a consistent snapshot 7 of a, b, c with 4000: b has 10 in two transfers on the way to a.
func exact() []*local {
	return []*local{
		{
			SnapshotId: 7, Balance: 1000, ChannelState: []uint64{10, 0}, ChannelCount: []uint64{2, 0},
			SentMoney: []uint64{5, 0}, SentCount: []uint64{1, 0}, ReceivedMoney: []uint64{20, 3}, ReceivedCount: []uint64{4, 1},
		},
		{
			SnapshotId: 7, Balance: 1990, ChannelState: []uint64{0, 0}, ChannelCount: []uint64{0, 0},
			SentMoney: []uint64{30, 0}, SentCount: []uint64{6, 0}, ReceivedMoney: []uint64{5, 0}, ReceivedCount: []uint64{1, 0},
		},
		{
			SnapshotId: 7, Balance: 1000, ChannelState: []uint64{0, 0}, ChannelCount: []uint64{0, 0},
			SentMoney: []uint64{3, 0}, SentCount: []uint64{1, 0}, ReceivedMoney: []uint64{0, 0}, ReceivedCount: []uint64{0, 0},
		},
	}
}

func TestAuditCatchesEachKindOfError(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	if found := controller.Audit(7, 4000, names, exact()); len(found) != 0 {
		t.Fatalf("the exact one: %v", found)
	}
	for name, c := range map[string]struct {
		spoil func([]*local)
		want  string
	}{
		"a branch is missing":          {func(p []*local) { p[1] = nil }, "b: did not answer"},
		"another snapshot":             {func(p []*local) { p[2].SnapshotId = 6 }, "c: answered snapshot 6 instead of 7"},
		"a short list":                 {func(p []*local) { p[0].SentCount = p[0].SentCount[:1] }, "a: answered 1 counts sent for 2 peers"},
		"a long list":                  {func(p []*local) { p[0].ChannelState = append(p[0].ChannelState, 1) }, "a: answered 3 channel states for 2 peers"},
		"money lost":                   {func(p []*local) { p[0].Balance-- }, "3989 in branches + 10 in transit are not the total of 4000"},
		"money made":                   {func(p []*local) { p[0].Balance++ }, "3991 in branches + 10 in transit"},
		"money that wraps around":      {func(p []*local) { p[0].Balance, p[1].Balance = 1<<63, 1<<63 }, "18446744073709551615 in branches"},
		"transit not recorded":         {func(p []*local) { p[0].ChannelState[0], p[0].Balance = 0, 1010 }, "channel b->a: money sent before the cut 30 - received before the cut 20 is not 0 in transit"},
		"transit on another channel":   {func(p []*local) { p[0].ChannelState[0], p[0].ChannelState[1] = 0, 10 }, "channel c->a: money"},
		"errors that cancel in sum":    {func(p []*local) { p[1].SentMoney[0]++; p[2].SentMoney[0]-- }, "channel b->a: money"},
		"received and never sent":      {func(p []*local) { p[2].ReceivedMoney[1]++ }, "channel b->c: money sent before the cut 0 - received before the cut 1 is not 0 in transit"},
		"never sent, wraps around":     {func(p []*local) { p[2].ReceivedMoney[1]++; p[2].ChannelState[1]-- }, "channel b->c: money"},
		"count of transit is wrong":    {func(p []*local) { p[0].ChannelCount[0] = 1 }, "channel b->a: transfers sent before the cut 6 - received before the cut 4 is not 1 in transit"},
		"count sent is wrong":          {func(p []*local) { p[1].SentCount[0]++ }, "channel b->a: transfers"},
		"count received is wrong":      {func(p []*local) { p[0].ReceivedCount[1]-- }, "channel c->a: transfers"},
		"doubled before the cut":       {func(p []*local) { p[0].ReceivedMoney[0] += 5; p[0].ReceivedCount[0]++; p[0].Balance += 5 }, "channel b->a: money"},
		"two transfers exchange money": {func(p []*local) { p[1].SentMoney[0], p[1].SentMoney[1] = 25, 5 }, "channel b->c: money"},
	} {
		parts := exact()
		c.spoil(parts)
		var text []string
		for _, d := range controller.Audit(7, 4000, names, parts) {
			text = append(text, d.String())
		}
		if !strings.Contains(strings.Join(text, "\n"), c.want) {
			t.Errorf("%s: found %q, want %q", name, text, c.want)
		}
	}
}

// No single number of a snapshot can be wrong without notice.
func TestAuditNoticesEveryNumber(t *testing.T) {
	t.Parallel()
	numbers := func(p *local) []*uint64 {
		all := []*uint64{&p.Balance}
		for _, list := range [][]uint64{p.ChannelState, p.ChannelCount, p.SentMoney, p.SentCount, p.ReceivedMoney, p.ReceivedCount} {
			for i := range list {
				all = append(all, &list[i])
			}
		}
		return all
	}
	tried := 0
	for branch := range exact() {
		for i := range numbers(exact()[branch]) {
			for _, by := range []uint64{1, ^uint64(0), 1 << 63} {
				parts := exact()
				parts[branch] = proto.Clone(parts[branch]).(*local)
				*numbers(parts[branch])[i] += by
				tried++
				if len(controller.Audit(7, 4000, []string{"a", "b", "c"}, parts)) == 0 {
					t.Errorf("branch %d number %d changed by %d: not noticed", branch, i, int64(by))
				}
			}
		}
	}
	if tried != 3*13*3 {
		t.Errorf("%d changes tried", tried)
	}
}

func sample() controller.Record {
	return controller.Record{
		Schema: controller.RecordSchema, SnapshotID: 10, Status: controller.Consistent, Total: 4000, InBranches: 3975, InTransit: 25, DurationMS: 1.84,
		Branches: []controller.BranchRecord{{Name: "branch1", Balance: 1000}, {Name: "branch2", Balance: 1000}, {Name: "branch3", Balance: 1975}},
		Channels: []controller.ChannelRecord{
			{Src: "branch2", Dst: "branch1", Amount: 10},
			{Src: "branch3", Dst: "branch1"},
			{Src: "branch1", Dst: "branch2"},
			{Src: "branch3", Dst: "branch2", Amount: 15},
			{Src: "branch1", Dst: "branch3"},
			{Src: "branch2", Dst: "branch3"},
		},
	}
}

type countingWriter struct {
	bytes.Buffer
	writes int
}

func (w *countingWriter) Write(b []byte) (int, error) { w.writes++; return w.Buffer.Write(b) }

func TestOutput(t *testing.T) {
	t.Parallel()
	var stdout, stderr countingWriter
	o := controller.NewOutput(&stdout, &stderr)
	o.Event(controller.SnapshotComplete{Record: sample()})
	want := `snapshot_id: 10
branch1: 1000, branch2->branch1: 10, branch3->branch1: 0
branch2: 1000, branch1->branch2: 0, branch3->branch2: 15
branch3: 1975, branch1->branch3: 0, branch2->branch3: 0

`
	if stdout.String() != want || stdout.writes != 1 {
		t.Errorf("%d writes:\n%s", stdout.writes, stdout.String())
	}
	if got := stderr.String(); got != "snapshot 10  3975 in branches + 25 in transit = 4000 ✓  1.8 ms\n" {
		t.Errorf("%q", got)
	}
	stdout.Reset()
	o.JSON = true
	incomplete := sample()
	incomplete.Status, incomplete.WaitingFor = controller.Incomplete, []string{"branch2"}
	o.Event(controller.SnapshotIncomplete{Record: incomplete, Reason: "stopped"})
	o.Event(controller.SnapshotComplete{Record: sample()})
	var read controller.Record
	if err := json.Unmarshal(stdout.Bytes(), &read); err != nil || read.SnapshotID != 10 || stdout.writes != 2 {
		t.Errorf("%d writes, %v: %s", stdout.writes, err, stdout.String())
	}
	stderr.Reset()
	w := controller.Waiting{For: "branches", Ready: 2, Total: 4, Missing: []controller.Missing{
		{Name: "branch3", Addr: "127.0.0.1:9003", Reason: "connection refused", For: 3 * time.Second},
	}}
	o.Event(w)
	o.Event(w) // within 5 s: not said again
	if got := stderr.String(); got != "waiting for branches 2/4 (branch3 127.0.0.1:9003 connection refused, 3s)\n" {
		t.Errorf("%q", got)
	}
	stderr.Reset()
	o.Terminal = true
	o.Event(w)
	o.End()
	o.End() // there is nothing left to erase
	if got := stderr.String(); !strings.HasSuffix(got, "\x1b[?7h\r\x1b[K") {
		t.Errorf("%q", got)
	}
}

func TestHistoryToleratesTornLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	record := sample()
	record.BankID = strings.Repeat("ab", 16)
	line, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	content := append(append([]byte{}, line...), "\n{\"snapshot_id\":99,\"sta"...)
	if err := os.WriteFile(filepath.Join(dir, controller.HistoryFile), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := controller.ReadSnapshot(dir, 10); err != nil || got.InTransit != 25 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := controller.ReadSnapshot(dir, 99); err == nil {
		t.Error("a torn line was read")
	}
	plan, err := controller.RestorePlan(record)
	if err != nil || plan.LastSnapshotID != 10 || len(plan.InTransit) != 2 || plan.BankID == record.BankID {
		t.Errorf("%+v, %v", plan, err)
	}
	record.Branches[0].Balance++
	if _, err := controller.RestorePlan(record); err == nil {
		t.Error("a plan with another sum than its total")
	}
	record.Status = controller.Incomplete
	if _, err := controller.RestorePlan(record); err == nil {
		t.Error("a plan from an incomplete snapshot")
	}
}
