package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/journal"
	"cutbank/internal/ledger"
	"cutbank/internal/supervise"
)

// recovery is row 5: what a branch does at its start with a million events after the checkpoint, and
// with as much as may ever stand there.
func (m *machine) recovery(context.Context) error {
	const million, most = 1_000_000, 16 << 20
	var some, all series
	for i := range m.rounds {
		for _, c := range []struct {
			name          string
			events, bytes int
			to            *series
		}{{"million", million, math.MaxInt, &some}, {"most", math.MaxInt, most, &all}} {
			took, err := recoverOnce(filepath.Join(m.dir, fmt.Sprintf("%s%d", c.name, i)), c.events, c.bytes)
			if err != nil {
				return err
			}
			c.to.add(took.Seconds(), 0, 0)
		}
	}
	f := some.figure(5, "s", "recovery of 1,000,000 events")
	m.table.add(f.target("at most 0.5 s", f.Median <= 0.5), all.figure(5, "s", "recovery of 16 MiB, when a checkpoint is due"))
	return nil
}

// recoverOnce writes the journal of a branch and reads it back as a branch does.
func recoverOnce(dir string, events, bytes int) (time.Duration, error) {
	fs, err := journal.Dir(dir)
	if err != nil {
		return 0, err
	}
	open := func(sync journal.Sync) (*journal.Journal, *ledger.Ledger, time.Duration, error) {
		j, err := journal.Open(fs, journal.Config{Sync: sync})
		if err != nil {
			return nil, nil, 0, err
		}
		l, began := new(ledger.Ledger), time.Now()
		err = j.Recover(l.Load, l.Replay)
		return j, l, time.Since(began), err
	}
	j, l, _, err := open(journal.OS)
	if err != nil {
		return 0, err
	}
	var out ledger.Output
	plan := ledger.Plan{Names: []string{"a", "b"}, Balances: []uint64{bankTotal, bankTotal}}
	if err := l.Open(&out, plan, "a", []string{"", ""}); err != nil {
		return 0, err
	}
	items := slices.Repeat([]ledger.Item{{Money: 1}}, 500)
	for done := 0; done < events && int(j.SinceCheckpoint()) < bytes; done += 2 * len(items) {
		for range items {
			err = errors.Join(err, l.Transfer(&out, 1, 1, 0, 2*len(items)))
		}
		err = errors.Join(err, l.Receive(&out, 1, l.Received(1)+1, items, 0), l.Acknowledge(&out, 1, l.Sent(1)), j.Commit(out.Persist))
		if err != nil {
			return 0, err
		}
		out.Reset()
	}
	if err := j.Close(); err != nil {
		return 0, err
	}
	j, again, took, err := open(journal.Always)
	if err != nil {
		return 0, err
	}
	if again.Sent(1) != l.Sent(1) || again.Received(1) != l.Received(1) || again.Balance() != l.Balance() {
		return 0, errors.New("the recovered books differ")
	}
	return took, j.Close()
}

// kills is row 6. Each branch is killed once, since a second kill has a restart delay.
func (m *machine) kills(ctx context.Context) error {
	n := max(4, m.rounds)
	return m.withBank(ctx, n, nil, func(b *bank) error {
		var healthy, ready series
		for i := range n {
			pid := 0
			for pid == 0 { // it may have passed for hung just now, and 0 would be this process group
				if err := pause(ctx, time.Millisecond); err != nil {
					return err
				}
				pid = b.supervisor.Status()[i].PID
			}
			killed := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return err
			}
			for _, wait := range []struct {
				state supervise.State
				to    *series
			}{{supervise.Running, &healthy}, {supervise.Ready, &ready}} {
				at, err := b.await(ctx, b.names[i], wait.state, killed)
				if err != nil {
					return err
				}
				wait.to.add(at.Sub(killed).Seconds(), 0, 0)
			}
			if _, err := b.progress(ctx, func(p progress) bool { return p.links == n*(n-1) }); err != nil {
				return err
			}
		}
		m.table.add(healthy.figure(6, "s", fmt.Sprintf("kill -9 to healthy, idle, %d branches", n)))
		f := ready.figure(6, "s", fmt.Sprintf("kill -9 to ready, idle, %d branches", n))
		m.table.add(f.target("at most 150 ms", f.Median <= 0.150))
		return nil
	})
}

// await is when a child came to a state after a moment.
func (b *bank) await(ctx context.Context, child string, state supervise.State, after time.Time) (time.Time, error) {
	for {
		b.mu.Lock()
		for _, e := range b.events {
			if e.Child == child && e.State == state && e.at.After(after) {
				b.mu.Unlock()
				return e.at, nil
			}
		}
		b.mu.Unlock()
		if err := pause(ctx, time.Millisecond); err != nil {
			return time.Time{}, fmt.Errorf("%s never came to %s: %w", child, state, err)
		}
	}
}

// memory is row 7.
func (m *machine) memory(ctx context.Context) error {
	return m.withBank(ctx, 8, nil, func(b *bank) error {
		var idle, paid series
		for _, bytes := range b.resident() {
			idle.add(bytes, 0, 0)
		}
		for range m.rounds {
			if _, _, err := b.paying(ctx, m.span); err != nil {
				return err
			}
		}
		for _, bytes := range b.resident() {
			paid.add(bytes, 0, 0)
		}
		f := paid.figure(7, "bytes", "resident, a branch of 8, after full load")
		m.table.add(idle.figure(7, "bytes", "resident, a branch of 8, just opened"),
			f.target("at most 25 MB", slices.Max(f.Rounds) <= 25e6))
		return nil
	})
}

// size is a bank of row 10.
type size struct {
	n              int
	open           time.Duration
	links, markers int
	memory         float64 // of all branches, bytes
	idle, paying   float64 // duration of a snapshot, seconds
	rate           float64
}

// Of row 10: how long a bank of one size may take, and the pace at which its branches pay, which leaves
// the machine room also with 256 of them.
const (
	sizeLimit = 3 * time.Minute
	sizePace  = 100 * time.Millisecond // longest wait between two transfers of a branch
)

// sizesOfBank is row 10.
func (m *machine) sizesOfBank(ctx context.Context) error {
	var sizes []size
	var failed error
	for n := 2; n <= m.scale; n *= 2 {
		fmt.Fprintf(m.log, "bench:        a bank of %d\n", n)
		s := size{n: n, markers: n * (n - 1)}
		ctx, cancel := context.WithTimeout(ctx, sizeLimit)
		err := m.withBank(ctx, n, nil, func(b *bank) error {
			pace := sizePace
			if err := b.controller.SetSettings(controller.Settings{Interval: &pace}); err != nil {
				return err
			}
			s.open = b.opened
			p, err := b.progress(ctx, func(p progress) bool { return p.links == n*(n-1) })
			if err != nil {
				return err
			}
			s.links = p.links / 2
			if s.idle, err = b.durations(ctx, m.rounds); err != nil {
				return err
			}
			if err = b.pay(ctx, true); err == nil {
				s.rate, _, err = b.throughput(ctx, m.span)
			}
			if err == nil {
				s.paying, err = b.durations(ctx, m.rounds)
			}
			for _, bytes := range b.resident() {
				s.memory += bytes
			}
			return err
		})
		cancel()
		if err != nil {
			failed = fmt.Errorf("a bank of %d: %w", n, err)
			break
		}
		sizes = append(sizes, s)
		m.table.add(s.figures()...)
	}
	if m.svg == "" || len(sizes) == 0 {
		return failed
	}
	return errors.Join(failed, draw(m.svg, sizes))
}

func (s size) figures() []figure {
	one := func(what, unit string, v float64) figure {
		return figure{Row: 10, What: fmt.Sprintf("%3d branches: %s", s.n, what), Unit: unit, Median: v, Rounds: []float64{v}}
	}
	open, links := one("open", "s", s.open.Seconds()), one("connections", "", float64(s.links))
	paying := one("snapshot, paying every 50 ms", "s", s.paying)
	if s.n == 256 {
		open = open.target("less than 60 s", s.open < time.Minute)
		links = links.target("N(N-1)/2", s.links == s.n*(s.n-1)/2)
		paying = paying.target("less than 5 s", s.paying < 5)
	}
	return []figure{
		open, links, one("markers per snapshot", "", float64(s.markers)), one("memory of a branch", "bytes", s.memory/float64(s.n)),
		one("snapshot, idle", "s", s.idle), paying, one("durable transfers", "/s", s.rate),
	}
}

// draw the curves of row 10: both axes logarithmic, a grid line per decade.
func draw(path string, sizes []size) error {
	colours := []string{"#1f77b4", "#d62728"}
	panels := []struct {
		title, unit string
		lines       []func(size) float64
	}{
		{"time to open", "s", []func(size) float64{func(s size) float64 { return s.open.Seconds() }}},
		{"connections N(N−1)/2 and markers of a snapshot N(N−1)", "", []func(size) float64{
			func(s size) float64 { return float64(s.links) }, func(s size) float64 { return float64(s.markers) },
		}},
		{"memory of all branches", "MiB", []func(size) float64{func(s size) float64 { return s.memory / (1 << 20) }}},
		{"a snapshot: idle, and while each branch pays every 50 ms", "ms", []func(size) float64{
			func(s size) float64 { return s.idle * 1e3 }, func(s size) float64 { return s.paying * 1e3 },
		}},
	}
	const width, height, left, right, top, gap = 640, 150, 70, 20, 26, 46
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		width, len(panels)*(height+gap)+top)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	x := func(n int) float64 {
		last := max(2, sizes[len(sizes)-1].n)
		return left + math.Log2(float64(n)/2)/max(1, math.Log2(float64(last)/2))*(width-left-right)
	}
	for k, p := range panels {
		base := float64(top + k*(height+gap) + height)
		low, high := math.Inf(1), math.Inf(-1)
		for _, line := range p.lines {
			for _, s := range sizes {
				v := math.Log10(max(1e-3, line(s)))
				low, high = min(low, math.Floor(v)), max(high, math.Ceil(v))
			}
		}
		high = max(high, low+1)
		y := func(v float64) float64 { return base - (v-low)/(high-low)*height }
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" font-weight="bold">%s</text>`+"\n", left, base-height-8, p.title)
		for d := low; d <= high; d++ {
			fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g %s</text>`+"\n",
				left, y(d), width-right, left-6, y(d)+4, math.Pow(10, d), p.unit)
		}
		for _, s := range sizes {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.0f" text-anchor="middle">%d</text>`+"\n", x(s.n), base+16, s.n)
		}
		for i, line := range p.lines {
			fmt.Fprintf(&b, `<polyline fill="none" stroke-width="2" stroke="%s" points="`, colours[i])
			for _, s := range sizes {
				fmt.Fprintf(&b, "%.1f,%.1f ", x(s.n), y(math.Log10(max(1e-3, line(s)))))
			}
			b.WriteString("\"/>\n")
		}
	}
	b.WriteString("</svg>\n")
	return writeFile(path, b.String())
}
