package main

import (
	"fmt"
	"testing"

	"cutbank/internal/controller"
	"cutbank/internal/dashboard"
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
