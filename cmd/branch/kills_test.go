package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// killsEnv is how many kills TestKills makes: 200 when it is not set. When it is, TestKillPoints goes
// through all its points at both its branches.
const killsEnv = "CUTBANK_TEST_KILLS"

// TestKills kills random branches of a bank, one, two or all at once, also while others are not back yet. The
// first bank of ten is at full load; the others pay at most every millisecond. Every snapshot is exact, or the
// launcher would end. Then all is drained: the balances alone are the total, and every transfer was received once,
// in order.
func TestKills(t *testing.T) {
	target := 200
	if testing.Short() {
		target = 20
	}
	if s := os.Getenv(killsEnv); s != "" {
		var err error
		if target, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const round = 1000 // kills in one bank: its names are kept until its end
	var begun atomic.Int64
	t.Run("banks", func(t *testing.T) {
		for k := range min(3, (target+round-1)/round) { // much of it is waiting for processes
			t.Run(strconv.Itoa(k), func(t *testing.T) {
				t.Parallel()
				for n := int(begun.Add(1)) - 1; n*round < target && !t.Failed(); n = int(begun.Add(1)) - 1 {
					interval := "1ms"
					if n%10 == 0 {
						interval = "0"
					}
					t.Run(strconv.Itoa(n), func(t *testing.T) { killRound(t, min(round, target-n*round), interval) })
				}
			})
		}
	})
}

func killRound(t *testing.T, target int, interval string) {
	t.Helper()
	b := newTrial(t, 4)
	b.start("--interval", interval)
	began, kills, groups := time.Now(), 0, map[int]int{}
	seen := 1 // snapshots when kills was last a multiple of 20
	for n, next := 0, 20; kills < target; n++ {
		victims := rand.Perm(4)[:1]
		switch n % 20 {
		case 5, 12:
			victims = rand.Perm(4)[:2]
		case 19:
			victims = rand.Perm(4)
		}
		if len(victims) > 1 {
			b.wait("all processes", func() bool { return len(b.pids("")) == 4 })
		}
		b.mu.Lock()
		before := maps.Clone(b.back)
		b.mu.Unlock()
		hit := 0
		for _, i := range victims {
			if b.kill(i) {
				hit++
			}
		}
		kills += hit
		groups[hit]++
		if rand.IntN(3) == 0 {
			time.Sleep(rand.N(50 * time.Millisecond))
		} else {
			b.wait("the killed branches", func() bool {
				return !slices.ContainsFunc(victims, func(i int) bool { return b.back[b.name(i)] == before[b.name(i)] })
			})
		}
		if kills >= next {
			next += 20
			b.another()
			if b.count() <= seen {
				t.Errorf("no snapshot in 20 kills")
			}
			seen = b.count()
		}
	}
	t.Logf("%d kills in %s; at once: %v", kills, time.Since(began).Round(time.Millisecond), groups)
	if kills < target {
		t.Errorf("%d kills, not %d", kills, target)
	}
	if target >= 200 && (groups[2] == 0 || groups[4] == 0) {
		t.Errorf("never two or all at once: %v", groups)
	}
	b.another()
	b.drain()
	b.stop()
}

// TestKillPoints kills branches at each named point of their work, before and after it: of the disk,
// of the links, of a checkpoint, of a snapshot. Each process is killed at the next point of its branch's
// plan, so that the branches go through their plans by themselves.
func TestKillPoints(t *testing.T) {
	var points []string
	for _, step := range append(slices.Clone(diskSteps), commitSteps...) {
		points = append(points, "before:"+step, "after:"+step)
	}
	points = append(points, netPoints...)
	if testing.Short() {
		points = points[:8]
	}
	b := newTrial(t, 4)
	slices.Sort(points) // a branch has the points before a step, the other those after it
	plans := [][]string{points[:len(points)/2], points[len(points)/2:]}
	if os.Getenv(killsEnv) != "" {
		plans = [][]string{points, slices.Clone(points)}
		slices.Reverse(plans[1])
	}
	for i, plan := range plans {
		var text strings.Builder
		for k, point := range plan {
			hit := 1 // of those that a process meets rarely; else a later one, when it has found its pace
			if strings.HasSuffix(point, ":segment") || strings.Contains(point, "transfer") || strings.Contains(point, "ack") {
				hit = 2 + k%30
			}
			fmt.Fprintf(&text, "%d %s\n", hit, point)
		}
		if err := os.WriteFile(filepath.Join(b.scratch, b.name(i)+".plan"), []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	b.start()
	defer func() {
		for i := range plans {
			if n := len(b.hits(i)); n < len(plans[i]) {
				t.Logf("%s was killed at %d points of %d and never at %q", b.name(i), n, len(plans[i]), plans[i][n])
			}
		}
	}()
	for i := range plans {
		for n, point := range plans[i] {
			b.wait(b.name(i)+" to be killed at "+point, func() bool { return len(b.hits(i)) > n })
		}
		if got := b.hits(i); !slices.Equal(got, plans[i]) {
			t.Errorf("%s was killed at %v, not at %v", b.name(i), got, plans[i])
		}
	}
	t.Logf("%d kills at %d points in %s", len(plans[0])+len(plans[1]), len(points), time.Since(began).Round(time.Millisecond))
	b.another()
	b.drain()
	b.stop()
}

// hits are the points where branch i was killed.
func (b *trial) hits(i int) []string {
	content, _ := os.ReadFile(filepath.Join(b.scratch, b.name(i)+".hits"))
	return strings.Fields(string(content))
}
