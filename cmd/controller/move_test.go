package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/roster"
)

// TestMovedBranches: branches come back at other addresses, one after the other. A controller with the
// new roster hands the addresses out, and the bank goes on. What identifies a roster is its names: in
// another order it is another bank.
func TestMovedBranches(t *testing.T) {
	t.Parallel()
	r := roster.Roster{File: "branches.txt"}
	var all []*durable
	for i := range 3 {
		d := &durable{t: t, dir: t.TempDir(), roster: roster.Branch{Name: fmt.Sprintf("branch%d", i+1), Host: "127.0.0.1", Line: i + 1}}
		d.start()
		t.Cleanup(func() { d.end() })
		all = append(all, d)
		r.Branches = append(r.Branches, d.roster)
	}
	dir := t.TempDir()
	snapshots := func() {
		t.Helper()
		cfg := config(r, 3000, dir)
		cfg.SnapshotInterval, cfg.Snapshots = time.Millisecond, 5
		good := 0
		err := runWith(t, cfg, func(_ *controller.Controller, e controller.Event) {
			if e, ok := e.(controller.SnapshotComplete); ok && e.Record.Status == controller.Consistent {
				good++
			}
		})
		if err != nil || good < 5 {
			t.Fatalf("%d snapshots: %v", good, err)
		}
	}
	snapshots()
	for i, d := range all {
		d.end()
		d.roster.Port = 0 // another one
		d.start()
		r.Branches = slices.Clone(r.Branches)
		r.Branches[i] = d.roster
		snapshots()
	}
	mixed := r
	mixed.Branches = []roster.Branch{r.Branches[1], r.Branches[0], r.Branches[2]}
	if err := runWith(t, config(mixed, 3000, t.TempDir()), nil); controller.ExitCode(err) != 2 {
		t.Errorf("another order of the same names: %v", err)
	}
}
