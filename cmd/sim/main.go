// Sim runs simulated banks from seeds, with all faults, and says what the checkers found.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cutbank/internal/rules"
	"cutbank/internal/sim"
)

const examples = `Runs whole banks on one thread each, from seeds, with faults, in virtual time.

  sim --seeds 2000                  seeds 1 to 2000; stops at the first failure, shrinks it, shows its end
  sim --seed 42 --trace             one seed, every step
  sim --options '{"Seed":42,…}'     one run, as a failure printed it
  sim --mutants                     each rule of --break removed, and which checker finds it
  sim --branches 1000               a large bank without faults

Exit codes: 0 all good, 1 a checker found something, or a fault never happened, 2 usage.

`

func main() {
	ok, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (ok bool, err error) {
	fs := pflag.NewFlagSet("sim", pflag.ContinueOnError)
	fs.SortFlags = false
	seeds := fs.Int("seeds", 2000, "how many seeds")
	first := fs.Uint64("first", 1, "the first of them")
	limit := fs.Duration("for", 0, "stop after so long (default: when all seeds are run)")
	threads := fs.Int("threads", 0, "runs at a time (default: one per processor)")
	seed := fs.Uint64("seed", 0, "run this seed alone (default: many)")
	options := fs.String("options", "", "run these options alone, as JSON (default: those that the seed draws)")
	trace := fs.Bool("trace", false, "print every step of a run that is alone")
	broken := fs.String("break", "", "without this rule (default: with all)")
	mutants := fs.Bool("mutants", false, "hunt for each rule of --break")
	branches := fs.Int("branches", 0, "one run of so many branches without faults (default: none)")
	fs.Usage = func() {}
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprint(out, examples, fs.FlagUsages())
		return true, err
	} else if err != nil {
		return false, err
	}
	if _, err := rules.Parse(*broken); err != nil {
		return false, err
	}
	switch {
	case *mutants:
		return hunt(out), nil
	case *branches > 0:
		return alone(out, sim.Large(*branches), *trace), nil
	case *options != "":
		var o sim.Options
		if err := json.Unmarshal([]byte(*options), &o); err != nil {
			return false, fmt.Errorf("--options: %w", err)
		}
		return alone(out, o, *trace), nil
	case *seed != 0:
		o := sim.Draw(*seed)
		o.Broken = *broken
		return alone(out, o, *trace), nil
	}
	if *threads == 0 {
		*threads = runtime.GOMAXPROCS(0)
	}
	return campaign(out, *first, *seeds, *threads, *limit), nil
}

func campaign(out io.Writer, first uint64, seeds, threads int, limit time.Duration) bool {
	began := time.Now()
	var until time.Time
	if limit > 0 {
		until = began.Add(limit)
	}
	c := sim.RunSeeds(first, seeds, threads, until)
	c.Print(out, time.Since(began))
	for _, o := range c.Failed[:min(1, len(c.Failed))] {
		explain(out, o)
	}
	missing := c.Missing()
	if len(c.Failed) == 0 && len(missing) > 0 {
		fmt.Fprintf(out, "never happened: %s\n", strings.Join(missing, ", "))
	}
	if limit == 0 && c.Seeds < seeds && len(c.Failed) == 0 {
		fmt.Fprintf(out, "only %d of %d seeds were run\n", c.Seeds, seeds)
		return false
	}
	return len(c.Failed) == 0 && len(missing) == 0
}

// explain shows a failure: as it was, and the shortest that was found.
func explain(out io.Writer, o sim.Options) {
	r, _ := sim.Run(o, false)
	fmt.Fprintf(out, "\nseed %d FAILED: %s\n  make sim SEED=%d\n  options %s\n", o.Seed, r.Violation, o.Seed, o)
	small, r := sim.Shrink(o, time.Now().Add(20*time.Second))
	_, lines := sim.Run(small, true)
	fmt.Fprintf(out, "shortest found, %d events: %s\n  bin/sim --options '%s'\nits end:\n%s\n",
		r.Events, r.Violation, small, sim.TraceText(lines, 60))
}

func alone(out io.Writer, o sim.Options, trace bool) bool {
	began := time.Now()
	r, lines := sim.Run(o, trace)
	if trace {
		fmt.Fprintln(out, strings.Join(lines, "\n"))
	}
	sim.Single(o, r).Print(out, time.Since(began))
	fmt.Fprintf(out, "hash %016x\n", r.Hash)
	if r.Violation != nil {
		explain(out, o)
	}
	return r.Violation == nil
}

// perMutant is how long the simulator may take to find one.
const perMutant = time.Minute

func hunt(out io.Writer) bool {
	all := true
	fmt.Fprintf(out, "%-27s %-18s %6s %8s %8s\n", "rule", "found by", "seed", "events", "time")
	for _, rule := range rules.All() {
		m := sim.Hunt(rule, perMutant)
		by := "NOT FOUND"
		if m.Found != nil {
			by = m.Found.Checker
		}
		all = all && m.Found != nil
		fmt.Fprintf(out, "%-27s %-18s %6d %8d %7.2fs\n", rule, by, m.Seed, m.Of, m.Took.Seconds())
	}
	return all
}
