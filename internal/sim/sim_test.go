package sim_test

import (
	"testing"
	"time"

	"cutbank/internal/rules"
	"cutbank/internal/sim"
)

// TestSameSeedSameRun compares two runs of each seed step by step, by their hash.
func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		a, _ := sim.Run(sim.Draw(seed), false)
		b, lines := sim.Run(sim.Draw(seed), true)
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: %016x after %d events, then %016x after %d", seed, a.Hash, a.Events, b.Hash, b.Events)
		}
		if len(lines) == 0 {
			t.Error("no trace")
		}
	}
	a, _ := sim.Run(sim.Draw(1), false)
	b, _ := sim.Run(sim.Draw(2), false)
	if a.Hash == b.Hash {
		t.Error("two seeds, one run")
	}
}

// TestSeeds is a little of what make sim does.
func TestSeeds(t *testing.T) {
	c := sim.RunSeeds(1, 40, 1, time.Time{})
	for _, o := range c.Failed {
		r, lines := sim.Run(o, true)
		t.Errorf("%s\noptions %s\n%s", r.Violation, o, sim.TraceText(lines, 60))
	}
}

// TestFoundSeeds runs seeds that once failed: a position that left a trace and a checker that compared times
// (204), a checker that told two transfers of the same amount apart (1009640).
func TestFoundSeeds(t *testing.T) {
	for _, seed := range []uint64{204, 1009640} {
		if r, _ := sim.Run(sim.Draw(seed), false); r.Violation != nil {
			t.Errorf("seed %d: %s", seed, r.Violation)
		}
	}
}

// TestLargeBank: sim --branches 1000, with fewer.
func TestLargeBank(t *testing.T) {
	if r, _ := sim.Run(sim.Large(60), false); r.Violation != nil || r.Snapshots == 0 || r.Transfers == 0 {
		t.Errorf("%d snapshots, %d transfers, %v", r.Snapshots, r.Transfers, r.Violation)
	}
}

// TestMutants hunts for all rules, as make mutants does; for two of them under the race detector.
func TestMutants(t *testing.T) {
	hunted := rules.All()
	if testing.Short() {
		hunted = []rules.Rule{rules.MarkerOvertaken, rules.AckBeforeDurable}
	}
	for _, rule := range hunted {
		if m := sim.Hunt(rule, 10*time.Minute); m.Found == nil {
			t.Errorf("%s: not found in %d seeds", rule, m.Seeds)
		}
	}
}
