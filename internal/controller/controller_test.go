package controller_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/link"
	"cutbank/proto/bankpb"
)

func TestOpensFirstBranchFirstThenResumes(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 3), t.TempDir()
	interval := 7 * time.Millisecond
	r := startRun(t, f, dir, func(c *controller.Config) { c.Settings.Interval = &interval })
	opened := await[controller.Opened](t, r)
	await[controller.Ready](t, r)
	f.do(func() {
		if f.proposed[0] != "branch1" || len(f.proposed) != 3 {
			t.Errorf("proposed to %v; the first branch must be first, each once", f.proposed)
		}
		if got := []uint64{f.branches[0].share, f.branches[1].share, f.branches[2].share}; !slices.Equal(got, []uint64{1334, 1333, 1333}) {
			t.Errorf("shares %v", got)
		}
	})
	record, err := r.TakeSnapshot(context.Background())
	if err != nil || record.SnapshotID != 1 || record.Status != controller.Consistent {
		t.Fatalf("%+v, %v", record, err)
	}
	for _, b := range f.branches { // sent after the plan: settled once a later request is answered
		f.do(func() {
			if b.settings.GetIntervalUs() != 7000 {
				t.Errorf("%s has the settings %v", b.name, b.settings)
			}
		})
	}
	r.stop()
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, controller.PlanFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("bank.json: %v, %v", info.Mode(), err)
	}

	r = startRun(t, f, dir, nil)
	if resumed := await[controller.Resumed](t, r); resumed.BankID != opened.BankID {
		t.Errorf("resumed %s, opened %s", resumed.BankID, opened.BankID)
	}
	await[controller.Ready](t, r)
	if record, err = r.TakeSnapshot(context.Background()); err != nil || record.SnapshotID != 2 {
		t.Errorf("ids must go on: %d, %v", record.SnapshotID, err)
	}
	found, err := controller.ReadSnapshot(dir, 1)
	if err != nil || found.Initiator == "" || found.Total != 4000 {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestOpensInOrder: a branch dials those before it, which are open by then but for a few.
func TestOpensInOrder(t *testing.T) {
	t.Parallel()
	f := newFakeBank(t, 200)
	r := startRun(t, f, t.TempDir(), nil)
	await[controller.Ready](t, r)
	f.do(func() {
		if len(f.proposed) != 200 || f.ahead >= 4 {
			t.Errorf("%d plans, one of them ahead of %d", len(f.proposed), f.ahead)
		}
	})
}

func TestHalfOpenedBankIsFinishedWithTheSamePlan(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 3), t.TempDir()
	r := startRun(t, f, dir, nil)
	opened := await[controller.Opened](t, r)
	r.stop()
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	// As if the controller had died after the first branch: the others never got the plan, and the
	// file does not say that they did.
	f.do(func() { f.branches[1].plan, f.branches[2].plan = nil, nil })
	path := filepath.Join(dir, controller.PlanFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(content), `"opened_at"`, `"not_opened"`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r = startRun(t, f, dir, nil)
	if again := await[controller.Opened](t, r); again.BankID != opened.BankID {
		t.Errorf("bank %s was finished as %s", opened.BankID, again.BankID)
	}
}

func TestBooksInMemoryEndWithAllBranches(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 2), t.TempDir()
	f.do(func() { f.branches[0].durable, f.branches[1].durable = false, false })
	r := startRun(t, f, dir, nil)
	first := await[controller.Opened](t, r)
	await[controller.Ready](t, r)
	if _, err := r.TakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	_ = r.end(t)

	f.do(func() { f.branches[1].plan = nil })
	r = startRun(t, f, dir, nil)
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "branch2 kept its books in memory") {
		t.Fatalf("one of two lost its books: %v", err)
	}

	f.do(func() { f.branches[0].plan = nil; clear(f.started) })
	r = startRun(t, f, dir, nil)
	second := await[controller.Opened](t, r)
	if second.BankID == first.BankID || second.Aside != "bank-"+first.BankID+".json" {
		t.Errorf("%+v after %+v", second, first)
	}
	if _, err := os.Stat(filepath.Join(dir, second.Aside)); err != nil {
		t.Error(err)
	}
	await[controller.Ready](t, r)
	if record, err := r.TakeSnapshot(context.Background()); err != nil || record.SnapshotID != 2 {
		t.Errorf("snapshot ids of one history are never reused: %d, %v", record.SnapshotID, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*fakeBank)
		total uint64
		fresh bool // the second controller has another directory
		want  string
		code  int
	}{
		"lost disk":     {spoil: func(f *fakeBank) { f.branches[1].plan = nil }, want: "branch2 has an empty data directory", code: 1},
		"impostor":      {spoil: func(f *fakeBank) { f.branches[1].macKey = []byte("x") }, want: "impostor", code: 2},
		"other bank":    {fresh: true, want: "belongs to another bank", code: 2},
		"other name":    {spoil: func(f *fakeBank) { f.branches[1].claims = "x" }, want: `is "x": edit branches.txt line 2`, code: 2},
		"other roster":  {spoil: func(f *fakeBank) { f.branches[1].roster = []string{"a", "b"} }, want: "holds a bank of the branches a, b", code: 2},
		"nobody there":  {spoil: func(f *fakeBank) { f.branches[1].down = true }, want: "branch2 127.0.0.1:", code: 4},
		"not ready yet": {spoil: func(f *fakeBank) { f.branches[1].mute = true }, code: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, dir := newFakeBank(t, 2), t.TempDir()
			r := startRun(t, f, dir, nil)
			await[controller.Ready](t, r)
			r.stop()
			_ = r.end(t)
			if c.spoil != nil {
				f.do(func() { c.spoil(f) })
			}
			if c.fresh {
				dir = t.TempDir()
			}
			r = startRun(t, f, dir, func(cfg *controller.Config) {
				if c.code == 4 {
					cfg.Wait = 3 * time.Second
				}
			})
			if c.code == 0 {
				await[controller.Ready](t, r)
				return
			}
			err := r.end(t)
			if err == nil || !strings.Contains(err.Error(), c.want) || controller.ExitCode(err) != c.code {
				t.Errorf("exit %d, %v; want %d, %s", controller.ExitCode(err), err, c.code, c.want)
			}
		})
	}
}

// TestComesBackAsAnother: a branch that comes back as one of another bank, or without the key of this one, is
// no longer this bank's.
func TestComesBackAsAnother(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		plan       func(*bankpb.Plan) *bankpb.Plan
		bank       *bankpb.Plan // of all branches at first; nil: the controller's
	}{
		{"of a client's bank", "belongs to another bank", func(*bankpb.Plan) *bankpb.Plan { return &bankpb.Plan{BankId: []byte("other")} }, nil},
		{"without a key", "does not prove the key", func(p *bankpb.Plan) *bankpb.Plan { return &bankpb.Plan{BankId: p.GetBankId(), Total: 4000} }, nil},
		{"of another client's bank", "belongs to another bank", func(*bankpb.Plan) *bankpb.Plan { return &bankpb.Plan{BankId: []byte("other")} }, &bankpb.Plan{BankId: []byte("first")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeBank(t, 2)
			if c.bank != nil {
				for _, b := range f.branches {
					b.plan, b.share, b.roster = c.bank, 2000, f.roster().Names()
				}
			}
			r := startRun(t, f, t.TempDir(), nil)
			await[controller.Ready](t, r)
			b := f.branches[0]
			f.do(func() { b.plan = c.plan(b.plan) })
			b.cut()
			await[controller.BranchDown](t, r)
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				s := r.Status()[0]
				if strings.Contains(s.Reason, c.want) {
					return
				}
				if s.Connected || time.Now().After(deadline) {
					t.Fatalf("connected %v: %s", s.Connected, s.Reason)
				}
			}
		})
	}
}

func TestOtherTotalInTheDirectory(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 2), t.TempDir()
	r := startRun(t, f, dir, nil)
	await[controller.Opened](t, r)
	_, err := controller.New(controller.Config{Roster: f.roster(), Total: 5000, DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "holds a bank of 4000, not 5000") || controller.ExitCode(err) != 2 {
		t.Error(err)
	}
}

func TestPlainBank(t *testing.T) {
	t.Parallel()
	for total, want := range map[uint64]string{4000: "", 4001: "holds a bank of 4000, not 4001"} {
		f := newFakeBank(t, 2)
		for _, b := range f.branches {
			b.plan, b.share, b.roster = &bankpb.Plan{BankId: []byte("derived")}, 2000, f.roster().Names()
		}
		r := startRun(t, f, t.TempDir(), func(c *controller.Config) { c.Total = total })
		if want == "" {
			if e := await[controller.Resumed](t, r); e.Keyed {
				t.Error("keyed")
			}
			await[controller.Ready](t, r)
			if record, err := r.TakeSnapshot(context.Background()); err != nil || record.Status != controller.Consistent {
				t.Errorf("%+v, %v", record, err)
			}
			continue
		}
		if err := r.end(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
}

func TestBranchThatComesBackCompletesItsSnapshots(t *testing.T) {
	t.Parallel()
	f := newFakeBank(t, 3)
	r := startRun(t, f, t.TempDir(), nil)
	await[controller.Ready](t, r)
	late := f.branches[2]
	f.do(func() { late.mute = true })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	record, err := r.TakeSnapshot(ctx)
	if !errors.Is(err, controller.ErrIncomplete) {
		t.Fatalf("%v", err)
	}
	f.do(func() { late.down = true })
	late.cut()
	down := await[controller.BranchDown](t, r)
	if down.Name != late.name {
		t.Errorf("%s is down, not %s", down.Name, late.name)
	}
	f.do(func() { late.down, late.mute, late.incarnation = false, false, 2 })
	complete := await[controller.SnapshotComplete](t, r).Record
	if complete.SnapshotID != record.SnapshotID || complete.Restarts[late.name] != 1 || complete.Status != controller.Consistent {
		t.Errorf("%+v", complete)
	}
}

func TestIncompleteNamesWhoIsMissing(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 3), t.TempDir()
	r := startRun(t, f, dir, func(c *controller.Config) { c.SnapshotInterval = time.Millisecond })
	f.do(func() { f.branches[1].mute = true })
	for range 8 { // and no more, since that is how many may be in progress
		await[controller.SnapshotStarted](t, r)
	}
	if _, err := r.TakeSnapshot(context.Background()); !errors.Is(err, controller.ErrBusy) {
		t.Errorf("a ninth: %v", err)
	}
	r.stop()
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	for e := range r.events {
		if e, ok := e.(controller.Stopped); ok && e.Incomplete != 8 {
			t.Errorf("%+v", e)
		}
	}
	record, err := controller.ReadSnapshot(dir, 8)
	if err != nil || !slices.Equal(record.WaitingFor, []string{"branch2"}) {
		t.Errorf("waiting for %v, %v", record.WaitingFor, err)
	}
}

func TestIDTakenByAnotherController(t *testing.T) {
	t.Parallel()
	f := newFakeBank(t, 2)
	r := startRun(t, f, t.TempDir(), nil)
	await[controller.Ready](t, r)
	f.do(func() { f.started[1], f.started[2] = "branch1", "branch1" })
	record, err := r.TakeSnapshot(context.Background())
	if err != nil || record.SnapshotID < 3 {
		// Parts of 1 may be here before the refusal: then it is complete, and as good.
		if record.SnapshotID != 1 && record.SnapshotID != 2 || record.Status != controller.Consistent {
			t.Errorf("%+v, %v", record, err)
		}
	}
}

func TestBooksThatDoNotBalanceEndTheRun(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 2), t.TempDir()
	r := startRun(t, f, dir, func(c *controller.Config) { c.SnapshotInterval = time.Hour })
	f.do(func() {
		f.branches[1].change = func(p *bankpb.ReturnSnapshot_LocalSnapshot) { p.ReceivedMoney[0], p.Balance = 5, p.Balance+5 }
	})
	err := r.end(t)
	if controller.ExitCode(err) != 3 || !strings.Contains(err.Error(), "channel branch1->branch2") {
		t.Errorf("exit %d: %v", controller.ExitCode(err), err)
	}
	record, err := controller.ReadSnapshot(dir, 1)
	if err != nil || record.Imbalance != 5 || record.Status != controller.Inconsistent {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestTwoControllersOneDirectory(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 4), t.TempDir()
	fast := func(c *controller.Config) {
		c.SnapshotInterval, c.Snapshots = time.Millisecond, 30
	}
	a, b := startRun(t, f, dir, fast), startRun(t, f, dir, fast)
	if err := errors.Join(a.end(t), b.end(t)); err != nil {
		t.Fatal(err)
	}
	f.do(func() {
		for _, branch := range f.branches {
			if string(branch.plan.GetBankId()) != string(f.branches[0].plan.GetBankId()) {
				t.Error("two banks")
			}
		}
	})
}

func TestRestoredBank(t *testing.T) {
	t.Parallel()
	f, dir := newFakeBank(t, 2), t.TempDir()
	plan, err := controller.RestorePlan(controller.Record{
		SnapshotID: 70, Status: controller.Consistent, Total: 4000,
		Branches: []controller.BranchRecord{{Name: "branch1", Balance: 1000}, {Name: "branch2", Balance: 2990}},
		Channels: []controller.ChannelRecord{{Src: "branch2", Dst: "branch1", Amount: 10, Count: 2}, {Src: "branch1", Dst: "branch2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.do(func() { // the money in transit is put back by the real branch; here its receiver has it
		f.branches[0].change = func(p *bankpb.ReturnSnapshot_LocalSnapshot) { p.Balance = 1010 }
	})
	r := startRun(t, f, dir, func(c *controller.Config) { c.Restore = &plan })
	if e := await[controller.Opened](t, r); e.Restored.SnapshotID != 70 {
		t.Errorf("%+v", e)
	}
	await[controller.Ready](t, r)
	f.do(func() {
		got := f.branches[1].plan.GetInTransit()
		if len(got) != 1 || got[0].GetSrc() != 1 || got[0].GetDst() != 0 || got[0].GetMoney() != 10 || f.branches[1].share != 2990 {
			t.Errorf("in transit %v, share %d", got, f.branches[1].share)
		}
	})
	if record, err := r.TakeSnapshot(context.Background()); err != nil || record.SnapshotID != 71 {
		t.Errorf("snapshot %d, %v", record.SnapshotID, err)
	}
}

// TestCut: the first of two branches is asked, or the other one when that is down.
func TestCut(t *testing.T) {
	t.Parallel()
	f := newFakeBank(t, 3)
	r := startRun(t, f, t.TempDir(), nil)
	await[controller.Ready](t, r)
	for _, bad := range []error{
		r.Cut("branch1", "branch1", time.Second), r.Cut("branch1", "nobody", time.Second),
		r.Cut("branch1", "branch2", 0), r.Cut("branch1", "branch2", link.MaxCut+1),
	} {
		if bad == nil {
			t.Error("a cut that can't be is accepted")
		}
	}
	cut := func(src, dst, at, peer string) {
		t.Helper()
		if err := r.Cut(src, dst, time.Second); err != nil {
			t.Fatal(err)
		}
		if e := await[controller.LinkCut](t, r); e.At != at || e.Peer != peer {
			t.Errorf("%+v, want %s and %s", e, at, peer)
		}
		want, got := at+"-"+peer+" 1000000µs", ""
		for deadline := time.Now().Add(2 * time.Minute); got != want && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			f.do(func() { got = strings.Join(f.cuts, ",") })
		}
		if got != want {
			t.Errorf("asked: %s, want %s", got, want)
		}
		f.do(func() { f.cuts = nil })
	}
	cut("branch1", "branch3", "branch1", "branch3")
	f.do(func() { f.branches[0].down = true })
	f.branches[0].cut()
	await[controller.BranchDown](t, r)
	cut("branch1", "branch3", "branch3", "branch1")
	r.stop()
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if err := r.Cut("branch2", "branch3", time.Second); !errors.Is(err, controller.ErrStopped) {
		t.Errorf("after the end: %v", err)
	}
}
