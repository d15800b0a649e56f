package journal_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// tailed is what a tail has handed over.
type tailed struct {
	t     *testing.T
	tail  *journal.Tail
	last  uint64 // index of the last commit
	value uint64 // in it
	began int    // times
}

func (x *tailed) checkpoint(last uint64, state []byte) error {
	x.began++
	x.last, x.value = last, 0
	if last > 0 {
		x.value = binary.LittleEndian.Uint64(state)
	}
	return nil
}

func (x *tailed) commit(index uint64, events []byte) error {
	value := binary.LittleEndian.Uint64(events)
	if index != x.last+1 || value != x.value+1 {
		x.t.Fatalf("commit %d holds %d after commit %d with %d", index, value, x.last, x.value)
	}
	x.last, x.value = index, value
	return nil
}

func (x *tailed) read(limit int) (more bool) {
	x.t.Helper()
	more, err := x.tail.Read(limit, x.checkpoint, x.commit)
	if err != nil {
		x.t.Fatal(err)
	}
	return more
}

// TestTail: whatever the writer does (small segments, large commits, checkpoints, new starts), a tail that
// keeps up gets every commit once and in order; one that does not begins again with the checkpoint.
func TestTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	random := rand.New(rand.NewPCG(1, 2))
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

// TestTailFailedReads: what can't be read is said, and the next call goes on as if nothing had been.
func TestTailFailedReads(t *testing.T) {
	cfg := small()
	cfg.SegmentBytes = 64 << 10 // longer than a read
	sim := simfs.New(1)
	j, err := journal.Open(sim, cfg)
	if err == nil {
		err = j.Recover(nil, nil)
	}
	const commits = 100
	for value := uint64(1); err == nil && value <= commits; value++ {
		if err = j.Commit(binary.LittleEndian.AppendUint64(make([]byte, 0, 1000), value)[:1000]); value == commits/2 && err == nil {
			err = j.Checkpoint(binary.LittleEndian.AppendUint64(nil, value))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		left := n
		x := &tailed{t: t, tail: journal.NewTail(readFS{sim, syscall.EIO, &left})}
		if _, err := x.tail.Read(1<<20, x.checkpoint, x.commit); err == nil {
			if n < 5 {
				t.Errorf("a tail reads only %d times", n-1)
			}
			return
		} else if !errors.Is(err, syscall.EIO) {
			t.Errorf("read %d: %v", n, err)
		}
		for x.read(1 << 20) {
		}
		if x.value != commits {
			t.Errorf("read %d failed: then the tail ends at %d", n, x.value)
		}
		x.tail.Close()
	}
}

// goneFS lists files that are gone when they are opened.
type goneFS struct{ journal.FS }

func (goneFS) Open(string) (journal.File, error) { return nil, fs.ErrNotExist }

// TestTailRefuses what can't be a journal, and hands on the errors of its caller.
func TestTailRefuses(t *testing.T) {
	mine := errors.New("mine")
	ok := func(uint64, []byte) error { return nil }
	no := func(uint64, []byte) error { return mine }
	withoutSecond := func(b []byte) []byte { return slices.Concat(b[:128], b[232:], make([]byte, 232-128)) }
	for what, test := range map[string]struct {
		fs                 *simfs.FS
		change             func(sim *simfs.FS)
		checkpoint, commit func(uint64, []byte) error
		want               error
	}{
		"a name":                 {history(t), func(sim *simfs.FS) { _ = sim.Rename(seg9, "x.segment") }, ok, ok, journal.ErrForeign},
		"a header":               {history(t), func(sim *simfs.FS) { damage(sim, seg1, flip(0)) }, ok, ok, journal.ErrForeign},
		"a commit is left out":   {history(t), func(sim *simfs.FS) { damage(sim, seg1, withoutSecond) }, ok, ok, journal.ErrCorrupt},
		"a checkpoint":           {checkpointed(t), func(sim *simfs.FS) { damage(sim, check, flip(70)) }, ok, ok, journal.ErrCorrupt},
		"no checkpoint is taken": {history(t), nil, no, ok, mine},
		"a checkpoint is not":    {checkpointed(t), nil, no, ok, mine},
		"a commit is not":        {history(t), nil, ok, no, mine},
	} {
		if test.change != nil {
			test.change(test.fs)
		}
		tail := journal.NewTail(test.fs)
		if _, err := tail.Read(1<<20, test.checkpoint, test.commit); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", what, err, test.want)
		}
		tail.Close()
	}
	// What is gone again and again the writer may have removed: no error.
	first := history(t)
	if err := first.Remove(seg1); err != nil {
		t.Fatal(err)
	}
	for _, sim := range []journal.FS{goneFS{history(t)}, first} {
		if more, err := journal.NewTail(sim).Read(1<<20, ok, ok); more || err != nil {
			t.Errorf("a writer that is always faster: %t, %v", more, err)
		}
	}
}
