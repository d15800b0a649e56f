package journal_test

import (
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"cutbank/internal/journal"
)

// tailed is what a tail has handed over.
type tailed struct {
	t     *testing.T
	tail  *journal.Tail
	last  uint64 // index of the last commit
	value uint64 // in it
	began int    // times
}

func (x *tailed) read(limit int) (more bool) {
	x.t.Helper()
	more, err := x.tail.Read(limit, func(last uint64, state []byte) error {
		x.began++
		x.last, x.value = last, 0
		if last > 0 {
			x.value = binary.LittleEndian.Uint64(state)
		}
		return nil
	}, func(index uint64, events []byte) error {
		value := binary.LittleEndian.Uint64(events)
		if index != x.last+1 || value != x.value+1 {
			x.t.Fatalf("commit %d holds %d after commit %d with %d", index, value, x.last, x.value)
		}
		x.last, x.value = index, value
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return more
}

// TestTail: whatever the writer does (small segments, large commits, checkpoints, new starts), a tail that
// keeps up gets every commit once and in order; one that does not begins again with the checkpoint.
func TestTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	var j *journal.Journal
	start := func() {
		fs, err := journal.Dir(dir)
		if err != nil {
			t.Fatal(err)
		}
		j, err = journal.Open(fs, journal.Config{SegmentBytes: 4096, Sync: journal.OS})
		if err == nil {
			err = j.Recover(func([]byte) error { return nil }, func([]byte) error { return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	start()
	fs, err := journal.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	keeps := &tailed{t: t, tail: journal.NewTail(fs)}
	lags := &tailed{t: t, tail: journal.NewTail(fs)}
	defer keeps.tail.Close()
	defer lags.tail.Close()
	for value := uint64(1); value <= 3000; value++ {
		size := 8 + random.IntN(200)
		if value%200 == 0 {
			size = 300 << 10
		}
		events := make([]byte, size)
		binary.LittleEndian.PutUint64(events, value)
		if err := j.Commit(events); err != nil {
			t.Fatal(err)
		}
		if err := j.Prepare(); err != nil {
			t.Fatal(err)
		}
		if random.IntN(3) == 0 {
			for keeps.read(500) {
			}
			if keeps.value != value {
				t.Fatalf("the tail is at %d of %d", keeps.value, value)
			}
		}
		if random.IntN(100) == 0 {
			for keeps.read(1 << 20) {
			}
			if err := j.Checkpoint(events[:8]); err != nil {
				t.Fatal(err)
			}
		}
		if random.IntN(700) == 0 {
			lags.read(1 << 10)
		}
		if value%977 == 0 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			start()
		}
	}
	for lags.read(1 << 20) {
	}
	for keeps.read(1 << 20) {
	}
	if keeps.value != 3000 || lags.value != 3000 {
		t.Errorf("the tails end at %d and %d", keeps.value, lags.value)
	}
	if keeps.began != 1 || lags.began < 2 {
		t.Errorf("the tails began %d and %d times", keeps.began, lags.began)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
