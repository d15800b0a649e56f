package main

import (
	"fmt"
	"testing"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
	"cutbank/internal/supervise"
	"cutbank/proto/bankpb"
)

// TestManyChannels: up to so many branches each channel is shown, and of a larger bank none.
func TestManyChannels(t *testing.T) {
	for n, want := range map[int]int{dashboard.MaxChannelBranches: 64 * 63, dashboard.MaxChannelBranches + 1: 0} {
		branches := make([]controller.BranchStatus, n)
		for i := range branches {
			branches[i].Name, branches[i].Status = fmt.Sprint(i), &bankpb.Status{}
			for k := range n {
				if k != i {
					branches[i].Status.Links = append(branches[i].Status.Links, &bankpb.LinkStatus{Peer: fmt.Sprint(k)})
				}
			}
		}
		if got := len(channels(branches)); got != want {
			t.Errorf("%d branches: %d channels", n, got)
		}
	}
}

// TestExplain: who is waited for is named with what its process does, where that says more.
func TestExplain(t *testing.T) {
	w := controller.Waiting{For: "branches", Total: 5}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		w.Missing = append(w.Missing, controller.Missing{Name: name, Reason: "no answer"})
	}
	explain(w, []supervise.Status{
		{Name: "a", State: supervise.Starting, Waits: "its journal to be replayed (1.0 MiB so far)"},
		{Name: "b", State: supervise.Failed, LastExit: "exit code 1: disk full"},
		{Name: "c", State: supervise.Paused},
		{Name: "d", State: supervise.Running, LastExit: "signal killed"},
		{Name: "e", State: supervise.Starting},
	})
	want := []string{"waits for its journal to be replayed (1.0 MiB so far)", "ended: exit code 1: disk full", "is paused", "no answer", "no answer"}
	for i, m := range w.Missing {
		if m.Reason != want[i] {
			t.Errorf("%s: %q, want %q", m.Name, m.Reason, want[i])
		}
	}
}
