package sim

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"cutbank/internal/rules"
)

// Campaign sums up runs.
type Campaign struct {
	Seeds     int
	Failed    []Options
	Events    uint64
	Virtual   time.Duration
	Transfers uint64
	Snapshots int
	Faults    map[Fault]int
	Sometimes map[Rare]int
}

// RunSeeds runs seeds from first on, on several threads, each run on one. It stops at a time, if that
// is not zero, and at the first failure.
func RunSeeds(first uint64, count, threads int, until time.Time) *Campaign {
	c := &Campaign{Faults: map[Fault]int{}, Sometimes: map[Rare]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	for range threads {
		wg.Go(func() {
			for {
				mu.Lock()
				k := next
				next++
				stop := k >= count || len(c.Failed) > 0 || !until.IsZero() && time.Now().After(until)
				mu.Unlock()
				if stop {
					return
				}
				o := Draw(first + uint64(k)) //nolint:gosec // positive
				r, _ := Run(o, false)
				mu.Lock()
				c.add(o, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return c
}

func (c *Campaign) add(o Options, r Result) {
	c.Seeds++
	if r.Violation != nil {
		c.Failed = append(c.Failed, o)
	}
	c.Events += r.Events
	c.Virtual += time.Duration(r.Virtual) * time.Microsecond
	c.Transfers += r.Transfers
	c.Snapshots += r.Snapshots
	for f, n := range r.Faults {
		c.Faults[f] += n
	}
	for s, n := range r.Sometimes {
		c.Sometimes[s] += n
	}
}

// Missing lists the kinds of fault and the rare situations that never happened.
func (c *Campaign) Missing() []string {
	var list []string
	for _, f := range AllFaults() {
		if c.Faults[f] == 0 {
			list = append(list, string(f))
		}
	}
	for _, s := range AllRare() {
		if c.Sometimes[s] == 0 {
			list = append(list, string(s))
		}
	}
	return list
}

// Print writes what happened.
func (c *Campaign) Print(out io.Writer, took time.Duration) {
	fmt.Fprintf(out, "%d seeds, %d failed; %d events, %d transfers, %d snapshots complete and checked\n",
		c.Seeds, len(c.Failed), c.Events, c.Transfers, c.Snapshots)
	fmt.Fprintf(out, "%s virtual in %s: %.0f times real time\n", c.Virtual.Round(time.Second), took.Round(time.Millisecond),
		c.Virtual.Seconds()/took.Seconds())
	fmt.Fprintln(out, "faults that happened:")
	for _, f := range AllFaults() {
		fmt.Fprintf(out, "  %9d  %s\n", c.Faults[f], f)
	}
	fmt.Fprintln(out, "sometimes:")
	for _, s := range AllRare() {
		fmt.Fprintf(out, "  %9d  %s\n", c.Sometimes[s], s)
	}
}

// Shrink turns off what a failure does not need, as long as there is time, and returns the options of
// the shortest run that fails.
func Shrink(o Options, until time.Time) (Options, Result) {
	best, _ := Run(o, false)
	try := func(change func(*Options)) {
		p := o
		p.Faults, p.Losses = slices.Clone(o.Faults), slices.Clone(o.Losses)
		change(&p)
		if time.Now().After(until) || p.String() == o.String() {
			return
		}
		if r, _ := Run(p, false); r.Violation != nil && r.Events <= best.Events {
			o, best = p, r
		}
	}
	for range 3 {
		for _, f := range slices.Clone(o.Faults) {
			try(func(p *Options) { p.Faults = slices.DeleteFunc(p.Faults, func(g Fault) bool { return g == f }) })
		}
		for _, l := range slices.Clone(o.Losses) {
			if len(o.Losses) > 1 {
				try(func(p *Options) { p.Losses = []Loss{l} })
			}
		}
		try(func(p *Options) { p.Branches = max(2, p.Branches-1) })
		try(func(p *Options) { p.Controllers = 1 })
		try(func(p *Options) { p.Millis = min(p.Millis, best.Violation.At/1000+1) })
		for _, k := range []int64{2, 4, 8} {
			try(func(p *Options) { p.Millis = max(1, p.Millis/k) })
			try(func(p *Options) { p.PayMillis *= k })
			try(func(p *Options) { p.SnapMillis *= k })
		}
		for range 20 { // other seeds of the same options may fail sooner
			try(func(p *Options) { p.Seed = p.Seed*6364136223846793005 + 1442695040888963407 })
		}
	}
	return o, best
}

// Mutant is what the simulator found without a rule.
type Mutant struct {
	Rule  rules.Rule
	Found *Violation // nil: nothing in the time
	Seed  uint64
	Seeds int
	Of    uint64 // events of the run
	Took  time.Duration
}

// Hunt runs seeds without a rule until a checker finds it, or for as long as is given.
func Hunt(r rules.Rule, limit time.Duration) Mutant {
	m := Mutant{Rule: r}
	began := time.Now()
	for seed := uint64(1); time.Since(began) < limit; seed++ {
		o := Draw(seed)
		o.Broken = r.String()
		switch r { // what its absence needs to show, in every run
		case rules.NoHashFence:
			o.Branches, o.Faults = 2, []Fault{OldDirectory, Partition}
			o.Millis, o.FaultMillis, o.PayMillis, o.SnapMillis = 200_000, 4000, 2000, 100_000
		case rules.StaleReader:
			o.Busy = 500_000
		default:
		}
		m.Seeds++
		if result, _ := Run(o, false); result.Violation != nil {
			m.Found, m.Seed, m.Of = result.Violation, seed, result.Events
			break
		}
	}
	m.Took = time.Since(began)
	return m
}

// Single is a campaign of one run.
func Single(o Options, r Result) *Campaign {
	c := &Campaign{Faults: map[Fault]int{}, Sometimes: map[Rare]int{}}
	c.add(o, r)
	return c
}
