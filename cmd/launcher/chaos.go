package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"cutbank/internal/supervise"
)

// chaos kills, stops and cuts off branches at random. Its choices depend on the seed alone, the branches
// that are up, and nothing else.
type chaos struct {
	mean  time.Duration // between two blows
	rng   *rand.Rand
	score map[string]int
}

// blow is what chaos does next.
type blow struct {
	verb string // "kill", "stop" (and nobody is told), "cut"
	name string
	peer string        // cut: the other end
	last time.Duration // cut: how long
}

func newChaos(mean time.Duration, seed uint64) *chaos {
	return &chaos{mean: mean, rng: rand.New(rand.NewPCG(seed, 1)), score: make(map[string]int)} //nolint:gosec // to be repeated
}

// choose is the next blow, after so long. None: no branch is up.
func (c *chaos) choose(all []supervise.Status) (b blow, ok bool) {
	verb, victim := []string{"kill", "stop", "cut"}[c.rng.IntN(3)], c.rng.IntN(len(all))
	peer, last := c.rng.IntN(len(all)-1), 100*time.Millisecond+time.Duration(c.rng.Int64N(int64(2*time.Second)))
	if verb == "cut" {
		if peer >= victim {
			peer++
		}
		return blow{verb: verb, name: all[victim].Name, peer: all[peer].Name, last: last.Round(time.Millisecond)}, true
	}
	for i := range all { // the next one from there that is up
		if s := all[(victim+i)%len(all)]; s.PID != 0 && (s.State == supervise.Ready || s.State == supervise.Running) {
			return blow{verb: verb, name: s.Name}, true
		}
	}
	return blow{}, false
}

// wait is the time to the next blow: random, mean on average, at most five times that.
func (c *chaos) wait() time.Duration {
	return min(time.Duration(c.rng.ExpFloat64()*float64(c.mean)), 5*c.mean)
}

// run strikes until the context ends.
func (c *chaos) run(ctx context.Context, s *supervise.Supervisor, cut func(src, dst string, d time.Duration) error, say func(string, ...any)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.wait()):
		}
		b, ok := c.choose(s.Status())
		if !ok {
			continue
		}
		var err error
		switch b.verb {
		case "kill":
			err = s.Strike(b.name)
		case "stop":
			err = s.Hang(b.name)
		case "cut":
			err = cut(b.name, b.peer, b.last) // which is told as an event
		}
		if err != nil {
			continue // it has just ended by itself
		}
		if b.verb != "cut" {
			say("chaos: %s %s", b.verb, b.name)
		}
		c.score[b.verb]++
	}
}

// String is the score, after run.
func (c *chaos) String() string {
	return fmt.Sprintf("chaos: %d killed, %d stopped, %d links cut", c.score["kill"], c.score["stop"], c.score["cut"])
}
