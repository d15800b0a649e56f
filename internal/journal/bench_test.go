package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// benchDir is a directory on a real disk: in BENCH_DIR, or the package's own,
// since the usual temporary directory may be in memory.
func benchDir(b *testing.B) journal.FS {
	b.Helper()
	root := os.Getenv("BENCH_DIR")
	if root == "" {
		root = "."
	}
	dir, err := os.MkdirTemp(root, "bench-") //nolint:usetesting // must be on a real disk
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	fs, err := journal.Dir(filepath.Join(dir, "j"))
	if err != nil {
		b.Fatal(err)
	}
	return fs
}

// benchConfig takes the segment size in MiB from BENCH_SEGMENT.
func benchConfig(b *testing.B) journal.Config {
	b.Helper()
	var cfg journal.Config
	if text := os.Getenv("BENCH_SEGMENT"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		cfg.SegmentBytes = int64(n) << 20
	}
	return cfg
}

func benchCommits(b *testing.B, fs journal.FS, cfg journal.Config, records int) {
	b.Helper()
	j, err := journal.Open(fs, cfg)
	if err != nil {
		b.Fatal(err)
	}
	if err := j.Recover(nil, nil); err != nil {
		b.Fatal(err)
	}
	events := make([]byte, records*32)
	for i := range events {
		events[i] = byte(i) | 1
	}
	b.SetBytes(int64(len(events)))
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Commit(events); err != nil {
			b.Fatal(err)
		}
		if err := j.Prepare(); err != nil {
			b.Fatal(err)
		}
		if j.SinceCheckpoint() > 64<<20 {
			if err := j.Checkpoint(events[:1]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCommit is batches of records of 32 bytes, each batch one commit.
func BenchmarkCommit(b *testing.B) {
	for _, mode := range []journal.Sync{journal.Always, journal.OS} {
		for _, records := range []int{1, 16, 256, 4096} {
			b.Run(fmt.Sprintf("sync=%v/records=%d", mode, records), func(b *testing.B) {
				cfg := benchConfig(b)
				cfg.Sync = mode
				benchCommits(b, benchDir(b), cfg, records)
			})
		}
	}
}

// BenchmarkSegmentChange is commits of 32 KiB: what Prepare does to the slowest.
func BenchmarkSegmentChange(b *testing.B) {
	for _, prepare := range []bool{false, true} {
		b.Run(fmt.Sprintf("prepare=%v", prepare), func(b *testing.B) {
			j, err := journal.Open(benchDir(b), benchConfig(b))
			if err != nil {
				b.Fatal(err)
			}
			if err := j.Recover(nil, nil); err != nil {
				b.Fatal(err)
			}
			events := bytes.Repeat([]byte{7}, 32<<10)
			var times []time.Duration
			for b.Loop() {
				start := time.Now()
				if err := j.Commit(events); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
				if prepare {
					if err := j.Prepare(); err != nil {
						b.Fatal(err)
					}
				}
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)*995/1000].Microseconds()), "p99.5-us")
			b.ReportMetric(float64(times[len(times)-1].Microseconds()), "max-us")
			if err := errors.Join(j.Checkpoint(nil), j.Close()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkSimulated is small commits in the simulator's file system.
func BenchmarkSimulated(b *testing.B) {
	benchCommits(b, simfs.New(1), journal.Config{SegmentBytes: 16 << 10}, 1)
}

// BenchmarkRecover recovers a million events of 16 bytes.
func BenchmarkRecover(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			fs := benchDir(b)
			cfg := benchConfig(b)
			cfg.Sync = journal.OS
			j, err := journal.Open(fs, cfg)
			if err != nil {
				b.Fatal(err)
			}
			if err := j.Recover(nil, nil); err != nil {
				b.Fatal(err)
			}
			for range 1_000_000 / batch {
				if err := j.Commit(make([]byte, 16*batch)); err != nil {
					b.Fatal(err)
				}
			}
			if err := j.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				j, err := journal.Open(fs, journal.Config{})
				if err != nil {
					b.Fatal(err)
				}
				events := 0
				if err := j.Recover(nil, func(e []byte) error { events += len(e) / 16; return nil }); err != nil || events != 1_000_000 {
					b.Fatal(events, err)
				}
				if err := j.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
