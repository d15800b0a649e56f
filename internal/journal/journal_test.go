package journal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// model is the simplest thing that a journal can hold: how many commits there
// were. Commit n is its number and a run of bytes that depends on it.
type model struct {
	n    uint64
	sum  uint64 // over all commits, to notice a wrong byte
	seen int    // commits handed over by the last recovery
}

func event(n uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, n)
	for i := range n * 37 % 120 {
		b = append(b, byte(n+i)|1)
	}
	return b
}

func (m *model) state() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, m.n), m.sum)
}

func (m *model) load(state []byte) error {
	if len(state) != 16 {
		return fmt.Errorf("state of %d bytes", len(state))
	}
	m.n, m.sum = binary.LittleEndian.Uint64(state), binary.LittleEndian.Uint64(state[8:])
	return nil
}

func (m *model) apply(b []byte) error {
	if string(b) != string(event(m.n+1)) {
		return fmt.Errorf("commit %d: wrong bytes % x", m.n+1, b)
	}
	m.n++
	m.seen++
	for _, c := range b {
		m.sum = m.sum*31 + uint64(c)
	}
	return nil
}

// small makes segments that a few commits fill.
func small() journal.Config { return journal.Config{SegmentBytes: 512, ID: 0xb0b} }

func open(fs journal.FS, cfg journal.Config, m *model) (*journal.Journal, error) {
	j, err := journal.Open(fs, cfg)
	if err != nil {
		return nil, err
	}
	*m = model{}
	if err := j.Recover(m.load, m.apply); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func mustOpen(t *testing.T, fs journal.FS, cfg journal.Config, m *model) *journal.Journal {
	t.Helper()
	j, err := open(fs, cfg, m)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return j
}

// commit commits the next event and counts it when it is durable.
func commit(j *journal.Journal, m *model) error {
	b := event(m.n + 1)
	if err := j.Commit(b); err != nil {
		return err
	}
	return m.apply(b)
}

func mustCommit(t *testing.T, j *journal.Journal, m *model, n int) {
	t.Helper()
	for range n {
		if err := commit(j, m); err != nil {
			t.Fatalf("commit %d: %v", m.n+1, err)
		}
	}
}

func TestLifeInARealDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "branch1")
	var m model
	for round := range 4 {
		fs, err := journal.Dir(dir)
		if err != nil {
			t.Fatal(err)
		}
		j := mustOpen(t, fs, small(), &m)
		if want := uint64(round * 50); m.n != want {
			t.Fatalf("round %d: %d commits, want %d", round, m.n, want)
		}
		mustCommit(t, j, &m, 30)
		if err := j.Checkpoint(m.state()); err != nil {
			t.Fatal(err)
		}
		if j.SinceCheckpoint() != 0 {
			t.Fatal("bytes since the checkpoint")
		}
		mustCommit(t, j, &m, 20)
		if s := j.Stats(); s.Commits != 50 || s.Syncs != 50 || s.Bytes == 0 {
			t.Fatalf("stats %+v", s)
		}
		since := j.SinceCheckpoint()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		want := m
		j = mustOpen(t, fs, small(), &m)
		if m.n != want.n || m.sum != want.sum || m.seen != 20 || j.SinceCheckpoint() != since {
			t.Fatalf("round %d: got %+v since %d, want %+v since %d", round, m, j.SinceCheckpoint(), want, since)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := j.Commit([]byte("x")); !errors.Is(err, journal.ErrClosed) {
			t.Fatalf("commit after close: %v", err)
		}
	}
	checkModes(t, dir)
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRealDirectoryRefusals(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below")} {
		if _, err := journal.Dir(path); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Dir(%s): %v", path, err)
		}
	}
	if _, err := journal.ReadDir(file); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("ReadDir of a file: %v", err)
	}
	if _, err := journal.ReadDir(filepath.Join(base, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadDir of nothing: %v", err)
	}
	const name = "00000000000000000001.segment"
	for kind, put := range map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink(file, path) },
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := filepath.Join(base, kind)
		d, err := journal.Dir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := put(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		var m model
		var failed *journal.FailedError
		if _, err := open(d, small(), &m); !errors.As(err, &failed) || failed.File != name {
			t.Errorf("a %s under a segment's name: %v", kind, err)
		}
		if _, err := d.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create over a %s: %v", kind, err)
		}
	}
	large := filepath.Join(base, "large")
	d, err := journal.Dir(large)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(large, name), nil, 0o600), os.Truncate(filepath.Join(large, name), 1<<30+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Verify(d, nil, nil); !errors.Is(err, journal.ErrForeign) {
		t.Errorf("a segment of more than any has: %v", err)
	}
}

// TestADirectoryThatVanishes: what can't be made, and what is gone later.
func TestADirectoryThatVanishes(t *testing.T) {
	base := t.TempDir()
	nowhere := filepath.Join(base, "nowhere")
	if err := os.Symlink(filepath.Join(base, "none"), nowhere); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Dir(filepath.Join(nowhere, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a link to nowhere: %v", err)
	}
	dir := filepath.Join(base, "j")
	d, err := journal.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Create("x.tmp")
	if err == nil {
		err = f.Close()
	}
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	_, list := d.List()
	_, size := f.Size()
	for what, err := range map[string]error{"list": list, "sync": d.SyncDir(), "size": size} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestReadDirChangesNothing(t *testing.T) {
	dir := t.TempDir()
	d, err := journal.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var m model
	j := mustOpen(t, d, small(), &m)
	mustCommit(t, j, &m, 20)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := journal.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	report, err := journal.Verify(ro, nil, nil)
	if err != nil || report.Commits != 20 {
		t.Fatalf("verify: %+v, %v", report, err)
	}
	_, create := ro.Create("x.tmp")
	for what, err := range map[string]error{
		"create": create, "rename": ro.Rename("a", "b"), "remove": ro.Remove("a"), "sync": ro.SyncDir(),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := ro.Open(report.Segments[0].File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a file that was opened for reading was written")
	}
}

func TestLargeCommits(t *testing.T) {
	fs := simfs.New(1)
	j, err := journal.Open(fs, small())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Recover(nil, nil); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, n := range []int{1, 300, 512, 100_000, 7, 400, journal.MaxCommit, 3} {
		b := strings.Repeat(string(rune('a'+n%26)), n)
		want = append(want, b)
		if err := j.Commit([]byte(b)); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if err := j.Commit(make([]byte, journal.MaxCommit+1)); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatalf("too large a commit: %v", err)
	}
	fs.Restart(simfs.Drop)
	_, err = journal.Verify(fs, nil, func(index uint64, b []byte) error {
		if string(b) != want[index-1] {
			t.Errorf("commit %d has %d bytes, want %d", index, len(b), len(want[index-1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []journal.Config{
		{SegmentBytes: 8},
		{SegmentBytes: -1},
		{SegmentBytes: 1 << 40},
		{SegmentBytes: 1001},
		{Sync: 7},
		{SyncDelay: -1},
	} {
		if _, err := journal.Open(simfs.New(0), cfg); err == nil {
			t.Errorf("accepted: %+v", cfg)
		}
	}
	for _, s := range []journal.Sync{journal.Always, journal.OS} {
		if got, err := journal.ParseSync(s.String()); err != nil || got != s {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	if _, err := journal.ParseSync("never"); err == nil {
		t.Error("sync mode never")
	}
	if journal.Sync(9).String() != "Sync(9)" {
		t.Error("name of an unknown mode")
	}
}

func TestStatsHistogram(t *testing.T) {
	now := time.Unix(0, 0)
	steps := []time.Duration{0, time.Microsecond, 3 * time.Microsecond, 500 * time.Microsecond, -time.Hour, 1 << 60}
	calls := 0
	cfg := small()
	cfg.SyncDelay = time.Nanosecond
	cfg.Now = func() time.Time {
		if calls++; calls%2 == 0 {
			now = now.Add(steps[calls/2-1])
		}
		return now
	}
	var m model
	j := mustOpen(t, simfs.New(1), cfg, &m)
	mustCommit(t, j, &m, len(steps))
	s := j.Stats()
	for bucket, want := range map[int]uint64{0: 2, 1: 1, 2: 1, 9: 1, 31: 1} {
		if s.SyncMicrosLog2[bucket] != want {
			t.Errorf("bucket %d: %d, want %d", bucket, s.SyncMicrosLog2[bucket], want)
		}
	}
	if s.Syncs != 6 || s.SyncMicrosSum != 504+(1<<60)/1000 {
		t.Errorf("stats %+v", s)
	}
}

func TestMisusePanics(t *testing.T) {
	j, err := journal.Open(simfs.New(1), journal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	panics := func(what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		f()
	}
	panics("commit before the recovery", func() { _ = j.Commit([]byte("x")) })
	if err := j.Recover(nil, nil); err != nil {
		t.Fatal(err)
	}
	panics("second recovery", func() { _ = j.Recover(nil, nil) })
	panics("commit of nothing", func() { _ = j.Commit(nil) })
}

func TestALargeCheckpointIsRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has to shadow a gigabyte")
	}
	var m model
	j := mustOpen(t, simfs.New(1), small(), &m)
	if err := j.Checkpoint(make([]byte, 1<<30+1)); !errors.Is(err, journal.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

func TestCommitDoesNotAllocate(t *testing.T) {
	d, err := journal.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(d, journal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Recover(nil, nil); err != nil {
		t.Fatal(err)
	}
	events := make([]byte, 10_000)
	if n := testing.AllocsPerRun(100, func() {
		if err := j.Commit(events); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a commit", n)
	}
}
