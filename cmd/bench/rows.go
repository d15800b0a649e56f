package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cutbank/internal/branch"
	"cutbank/internal/controller"
)

// mode is how commits become durable.
type mode struct {
	name  string
	args  []string
	delay time.Duration // the ceiling program's: below 0 no sync at all
}

func modes() []mode {
	return []mode{
		{"sync=always", nil, 0},
		{"1 ms added", []string{"--sync-delay", "1ms"}, time.Millisecond},
		{"5 ms added", []string{"--sync-delay", "5ms"}, 5 * time.Millisecond},
		{"sync=os", []string{"--sync", "os"}, -1},
	}
}

// ceiling runs the ceiling program for the time of one measurement, saturated.
func (m *machine) ceiling(ctx context.Context, delay time.Duration) (ceilingResult, error) {
	window := 32768 * (1 + int(max(0, delay.Milliseconds())))
	return runCeiling(ctx, m.dir, window, delay, m.span)
}

// transfers is row 1: in each round the ceiling program, while the bank rests, then the bank.
func (m *machine) transfers(ctx context.Context) error {
	for _, mode := range modes() {
		for _, n := range m.sizes {
			what := fmt.Sprintf("durable transfers, %2d branches, %s", n, mode.name)
			var s series
			err := m.withBank(ctx, n, mode.args, func(b *bank) error {
				for range m.rounds {
					top, err := m.ceiling(ctx, mode.delay)
					if err != nil {
						return err
					}
					rate, cpu, err := b.paying(ctx, m.span)
					if err != nil {
						return err
					}
					s.add(rate, top.Rate, cpu)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			m.table.add(judge(s.figure(1, "/s", what), n, mode))
		}
	}
	return nil
}

// judge adds the targets of row 1.
func judge(f figure, n int, m mode) figure {
	switch {
	case n == 2 && m.delay == 0:
		return f.target("half of the ceiling, at most 400 ns", f.Ceiling >= 0.5 && f.CPU <= 400)
	case n == 8 && m.delay == 0:
		return f.target("a quarter of the ceiling", f.Ceiling >= 0.25)
	case n == 2 && m.delay > time.Millisecond:
		return f.target("1 M/s", f.Median >= 1e6)
	}
	return f
}

// withBank opens a bank that rests, and closes it.
func (m *machine) withBank(ctx context.Context, n int, args []string, do func(*bank) error) error {
	b, err := m.openBank(ctx, n, args...)
	if err != nil {
		return err
	}
	return errors.Join(do(b), b.stop())
}

// paying lets the bank pay for a moment before and while it measures, then rest.
func (b *bank) paying(ctx context.Context, span time.Duration) (rate, cpu float64, err error) {
	if err := b.pay(ctx, true); err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, span/3); err != nil {
		return 0, 0, err
	}
	if rate, cpu, err = b.throughput(ctx, span); err != nil {
		return 0, 0, err
	}
	return rate, cpu, b.pay(ctx, false)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// every takes a snapshot at this pace until stop is called, which returns their records.
func (b *bank) every(ctx context.Context, pace time.Duration) (stop func() []controller.Record) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var records []controller.Record
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wg.Go(func() {
				if r, err := b.controller.TakeSnapshot(ctx); err == nil {
					mu.Lock()
					records = append(records, r)
					mu.Unlock()
				}
			})
		}
	})
	return func() []controller.Record {
		cancel()
		wg.Wait()
		return records
	}
}

// underSnapshots is row 2: throughput with a snapshot every 100 ms over that without, of the same
// second; which comes first changes.
func (m *machine) underSnapshots(ctx context.Context) error {
	for _, n := range m.sizes {
		var with, cost series
		var taken int
		err := m.withBank(ctx, n, nil, func(b *bank) error {
			if err := b.pay(ctx, true); err != nil {
				return err
			}
			for range 2 * m.rounds {
				var rates [2]float64
				for k := range 4 { // without, with, with, without: a drift within the round cancels out
					stop := func() []controller.Record { return nil }
					if k == 1 || k == 2 {
						stop = b.every(ctx, 100*time.Millisecond)
					}
					rate, _, err := b.throughput(ctx, m.span/2)
					taken += len(stop())
					if err != nil {
						return err
					}
					rates[(k+1)/2%2] += rate / 2
				}
				with.add(rates[1], 0, 0)
				cost.add(1-rates[1]/rates[0], 0, 0)
			}
			return nil
		})
		if err != nil {
			return err
		}
		f := with.figure(2, "/s", fmt.Sprintf("a snapshot every 100 ms, %2d branches", n))
		f.Note = fmt.Sprintf("%d snapshots;", taken)
		c := cost.figure(2, "ratio", fmt.Sprintf("  what that costs of the throughput, %2d branches", n))
		m.table.add(f, c.target("at most 0.03", c.Median <= 0.03))
	}
	return nil
}

// snapshots is row 3. The ceiling of an idle one is a lone transfer of the ceiling program (two syncs
// and two hops), that of one under load a transfer of the saturated one.
func (m *machine) snapshots(ctx context.Context) error {
	for _, n := range []int{4, 8, 16, 64} {
		if n > m.scale {
			continue
		}
		err := m.withBank(ctx, n, nil, func(b *bank) error {
			var idle, loaded series
			for range m.rounds {
				lone, err := runCeiling(ctx, m.dir, 1, 0, m.span/2)
				if err != nil {
					return err
				}
				took, err := b.durations(ctx, 10)
				if err != nil {
					return err
				}
				idle.add(took, lone.P50.Seconds(), 0)
				top, err := m.ceiling(ctx, 0)
				if err != nil {
					return err
				}
				if err := b.pay(ctx, true); err != nil {
					return err
				}
				if err := pause(ctx, m.span); err != nil {
					return err
				}
				if took, err = b.durations(ctx, 10); err != nil {
					return err
				}
				loaded.add(took, top.P50.Seconds(), 0)
				if err := b.pay(ctx, false); err != nil {
					return err
				}
			}
			i := idle.figure(3, "s", fmt.Sprintf("snapshot, idle, %2d branches", n))
			l := loaded.figure(3, "s", fmt.Sprintf("snapshot, full load, %2d branches", n))
			switch n {
			case 4:
				i = i.target("at most 1 ms", i.Median <= 0.001)
			case 8:
				l = l.target("at most 10 ms", l.Median <= 0.010)
			}
			m.table.add(i, l)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// durations of some snapshots, one after the other: the median, in seconds.
func (b *bank) durations(ctx context.Context, count int) (float64, error) {
	var all []float64
	for range count {
		r, err := b.controller.TakeSnapshot(ctx)
		if err != nil {
			return 0, err
		}
		all = append(all, r.DurationMS/1000)
	}
	return median(all), nil
}

// latencies is row 4: at a million transfers a second offered, and at shares of what two branches do.
func (m *machine) latencies(ctx context.Context) error {
	return m.withBank(ctx, 2, nil, func(b *bank) error {
		full, _, err := b.paying(ctx, m.span)
		if err != nil {
			return err
		}
		for _, load := range []struct {
			name string
			rate float64
		}{{"1 M/s offered", 1e6}, {"10 % load", full / 10}, {"50 % load", full / 2}, {"full load", 0}} {
			if err := m.latency(ctx, b, load.name, load.rate); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *machine) latency(ctx context.Context, b *bank, name string, rate float64) error {
	interval := time.Duration(0)
	if rate > 0 { // the mean wait of each of the two is half the longest
		interval = max(time.Microsecond, time.Duration(2*2/rate*1e9).Round(time.Microsecond))
	}
	if err := b.controller.SetSettings(controller.Settings{Interval: &interval}); err != nil {
		return err
	}
	var rates series
	var transfer, marker [2]series
	for range m.rounds {
		top, err := m.ceiling(ctx, 0)
		if err != nil {
			return err
		}
		if err := b.pay(ctx, true); err != nil {
			return err
		}
		before, err := b.transferTimes(ctx)
		if err != nil {
			return err
		}
		stop := b.every(ctx, 10*time.Millisecond)
		got, cpu, err := b.throughput(ctx, 2*m.span)
		records := stop()
		if err != nil {
			return err
		}
		after, err := b.transferTimes(ctx)
		if err != nil {
			return err
		}
		rates.add(got, top.Rate, cpu)
		hops := markerTimes(records)
		for k, q := range []float64{0.5, 0.99} {
			ceiling := []time.Duration{top.P50, top.P99}[k].Seconds()
			transfer[k].add(histogramQuantile(before, after, q), ceiling, 0)
			marker[k].add(quantile(hops, q).Seconds(), ceiling, 0)
		}
		if err := b.pay(ctx, false); err != nil {
			return err
		}
	}
	f := rates.figure(4, "/s", name)
	p50, p99 := transfer[0].figure(4, "s", "  transfer, decided to acknowledged, p50"), transfer[1].figure(4, "s", "  transfer, decided to acknowledged, p99")
	m50, m99 := marker[0].figure(4, "s", "  marker, recorded to received, p50"), marker[1].figure(4, "s", "  marker, recorded to received, p99")
	if rate == 1e6 {
		p99 = p99.target("at most 5 ms", p99.Median <= 0.005)
		m99 = m99.target("at most 3 ms", m99.Median <= 0.003)
	}
	m.table.add(f, p50, p99, m50, m99)
	return nil
}

// transferTimes is the histogram of all branches so far.
func (b *bank) transferTimes(ctx context.Context) ([]uint64, error) {
	if _, err := b.progress(ctx, anyProgress); err != nil {
		return nil, err
	}
	var sum []uint64
	for _, st := range b.controller.Status() {
		for i, n := range st.Status.GetTransferUs() {
			if i >= len(sum) {
				sum = append(sum, 0)
			}
			sum[i] += n
		}
	}
	return sum, nil
}

func histogramQuantile(before, after []uint64, q float64) float64 {
	var all, seen uint64
	counts := slices.Clone(after)
	for i := range counts {
		if i < len(before) {
			counts[i] -= before[i]
		}
		all += counts[i]
	}
	for i, n := range counts {
		if seen += n; float64(seen) >= q*float64(all) && seen > 0 {
			return float64(branch.LatencyBound(i)) / 1e6
		}
	}
	return 0
}

// markerTimes are, for each branch that recorded at a marker, the time since its sender recorded.
func markerTimes(records []controller.Record) (all []time.Duration) {
	for _, r := range records {
		at := make(map[string]time.Time, len(r.Branches))
		for _, b := range r.Branches {
			at[b.Name], _ = time.Parse(time.RFC3339Nano, b.RecordedAt)
		}
		for _, b := range r.Branches {
			if from, ok := at[b.FirstMarkerFrom]; ok {
				all = append(all, at[b.Name].Sub(from))
			}
		}
	}
	return all
}

// ceilings is row 8.
func (m *machine) ceilings(ctx context.Context) error {
	for _, mode := range modes() {
		var s, sync series
		for range m.rounds {
			r, err := m.ceiling(ctx, mode.delay)
			if err != nil {
				return err
			}
			s.add(r.Rate, r.Rate, r.CPU)
			sync.add(r.Sync.Seconds(), 0, 0)
		}
		m.table.add(s.figure(8, "/s", "the ceiling program, "+mode.name))
		if mode.delay == 0 {
			m.table.add(sync.figure(8, "s", "  one of its syncs"))
		}
	}
	var lone series
	for range m.rounds {
		r, err := runCeiling(ctx, m.dir, 1, 0, m.span/2)
		if err != nil {
			return err
		}
		lone.add(r.P50.Seconds(), r.P50.Seconds(), 0)
	}
	m.table.add(lone.figure(8, "s", "  its lone transfer: two syncs and two hops"))
	return nil
}
