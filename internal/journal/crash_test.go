package journal_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// scenario has each kind of step: open, commits, segment changes, a commit that
// is larger than a segment, checkpoints, a second life. It returns at the first
// error; m.n is then how many commits were acknowledged.
func scenario(fs journal.FS, cfg journal.Config, m *model) error {
	for life := range 2 {
		var next model
		j, err := open(fs, cfg, &next)
		if next.n > m.n || err == nil {
			*m = next
		}
		if err != nil {
			return err
		}
		for i := range 16 {
			if i == 6 || i == 12 || i == 13 {
				if err := j.Checkpoint(m.state()); err != nil {
					return refusing(j, err)
				}
			}
			if i == 13 {
				continue
			}
			if err := commit(j, m); err != nil {
				return refusing(j, err)
			}
			if life == 0 {
				continue
			}
			if err := j.Prepare(); err != nil {
				return refusing(j, err)
			}
		}
		if err := j.Close(); err != nil {
			return err
		}
	}
	return nil
}

// refusing gives the error of a failed call, if every later call gives the same.
func refusing(j *journal.Journal, err error) error {
	for _, again := range []error{j.Commit([]byte("x")), j.Checkpoint(nil), j.Prepare()} {
		if !errors.Is(again, err) {
			return fmt.Errorf("after a failure (%s) a call gave: %w", err.Error(), again)
		}
	}
	return err
}

// recovered opens the journal after a crash and checks that it holds the
// acknowledged commits and at most one more.
func recovered(t *testing.T, fs *simfs.FS, acked uint64, what string) uint64 {
	t.Helper()
	var m model
	j, err := open(fs, small(), &m)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if m.n < acked || m.n > acked+1 {
		t.Fatalf("%s: %d commits recovered, %d were acknowledged", what, m.n, acked)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return m.n
}

func TestOrderOfWrites(t *testing.T) {
	fs := simfs.New(1)
	var log strings.Builder
	fs.Trace = func(s simfs.Step) { fmt.Fprintf(&log, "  %v\n", s) }
	say := func(text string) { fmt.Fprintln(&log, text) }
	var m model
	say("open an empty directory")
	j := mustOpen(t, fs, small(), &m)
	say("commit")
	mustCommit(t, j, &m, 1)
	say("commits, until the segment is full")
	mustCommit(t, j, &m, 4)
	say("preparing the next segment, bit by bit")
	for range 20 {
		if err := j.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	say("commits, until the segment is full")
	mustCommit(t, j, &m, 3)
	say("checkpoint")
	if err := j.Checkpoint(m.state()); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, j, &m, 1)
	say("second checkpoint")
	if err := j.Checkpoint(m.state()); err != nil {
		t.Fatal(err)
	}
	say("the same checkpoint again")
	if err := j.Checkpoint(m.state()); err != nil {
		t.Fatal(err)
	}
	say("open after a clean end")
	j = mustOpen(t, fs, small(), &m)
	say("a commit that is torn")
	fs.Fault = simfs.Fault{Step: fs.Steps() + 1, Err: syscall.ENOSPC, Keep: 20}
	if err := commit(j, &m); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	say("open after a torn commit")
	j = mustOpen(t, fs, small(), &m)
	mustCommit(t, j, &m, 1)
	say("open with leftovers")
	fs.Put("00000000000000000001.segment", []byte("old"))
	fs.Put("00000000000000000002.checkpoint", []byte("old"))
	fs.Put("00000000000000000009.checkpoint.tmp", []byte("part"))
	mustOpen(t, fs, small(), &m)
	golden(t, "order.golden", log.String())
}

func TestOrderOfWritesWhenTheKernelSyncs(t *testing.T) {
	fs := simfs.New(1)
	fs.Trace = func(s simfs.Step) {
		if s.Op == simfs.OpSync || s.Op == simfs.OpSyncDir {
			t.Errorf("mode os: %v", s)
		}
	}
	cfg := small()
	cfg.Sync = journal.OS
	var m model
	if err := scenario(fs, cfg, &m); err != nil {
		t.Fatal(err)
	}
	fs.Restart(simfs.Kill)
	fs.Trace = nil
	// Opened with syncs, what was recovered survives power loss from then on.
	n := recovered(t, fs, m.n, "after a kill")
	fs.Restart(simfs.Drop)
	recovered(t, fs, n, "after a kill, a recovery and power loss")
}

// golden compares with a file of testdata, which UPDATE=1 rewrites.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (UPDATE=1 rewrites it); got:\n%s", path, got)
	}
}

// TestCrashAtEveryStep crashes the scenario at each step, and then the recovery
// that follows at each of its steps, and then that one's.
func TestCrashAtEveryStep(t *testing.T) {
	var whole model
	fs := simfs.New(1)
	if err := scenario(fs, small(), &whole); err != nil {
		t.Fatal(err)
	}
	crashes := 0
	for _, loss := range []simfs.Loss{simfs.Drop, simfs.Kill, simfs.Tear} {
		seeds := 1
		if loss == simfs.Tear {
			seeds = 20
		}
		for seed := range seeds {
			for step := 1; step <= fs.Steps(); step++ {
				crashed := simfs.New(uint64(seed))
				crashed.Fault.Step = step
				var m model
				if err := scenario(crashed, small(), &m); !errors.Is(err, simfs.ErrCrashed) {
					t.Fatalf("step %d: no crash: %v", step, err)
				}
				crashed.Restart(loss)
				what := fmt.Sprintf("loss %d seed %d step %d", loss, seed, step)
				crashes += 1 + crashRecovery(t, crashed, loss, m.n, what)
			}
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes < 10_000 {
		t.Errorf("only %d crashes", crashes)
	}
}

// crashRecovery crashes the recovery at each of its steps, with every loss.
func crashRecovery(t *testing.T, fs *simfs.FS, before simfs.Loss, acked uint64, what string) int {
	t.Helper()
	crashes := 0
	for _, loss := range []simfs.Loss{simfs.Drop, simfs.Kill, simfs.Tear} {
		for step := 1; ; step++ {
			again := fs.Clone()
			again.Fault.Step = fs.Steps() + step
			var m model
			_, err := open(again, small(), &m)
			if err == nil {
				break // it has fewer steps
			}
			if !errors.Is(err, simfs.ErrCrashed) {
				t.Fatalf("%s, recovery step %d: %v", what, step, err)
			}
			crashes++
			again.Restart(loss)
			recovered(t, again, acked, fmt.Sprintf("%s (%d), recovery step %d loss %d", what, before, step, loss))
		}
	}
	// What a whole recovery handed over is durable, and so is what comes after.
	n := recovered(t, fs, acked, what)
	fs.Restart(simfs.Drop)
	if again := recovered(t, fs, n, what+", then power loss"); again != n {
		t.Fatalf("%s: %d commits after %d were recovered", what, again, n)
	}
	var m model
	if err := scenario(fs, small(), &m); err != nil {
		t.Fatalf("%s: going on: %v", what, err)
	}
	fs.Restart(simfs.Drop)
	recovered(t, fs, m.n, what+", after going on")
	return crashes
}

// TestFailureAtEveryStep fails each step once: the error comes out with its
// cause, nothing is accepted afterwards, nothing more is written, and after a
// restart everything that was acknowledged is there.
func TestFailureAtEveryStep(t *testing.T) {
	var whole model
	clean := simfs.New(1)
	syncs := 0
	clean.Trace = func(s simfs.Step) {
		if s.Op == simfs.OpSync {
			syncs++
		}
	}
	if err := scenario(clean, small(), &whole); err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, keep := range []int{0, 1, 13, 100, 1 << 20} {
			for step := 1; step <= clean.Steps(); step++ {
				fs := simfs.New(uint64(step))
				fs.Fault = simfs.Fault{Step: step, Err: cause, Keep: keep}
				failOnce(t, fs, cause, fmt.Sprintf("%v at step %d, %d bytes kept", cause, step, keep))
			}
		}
	}
	t.Logf("%d steps, %d of them syncs", clean.Steps(), syncs)
}

func failOnce(t *testing.T, fs *simfs.FS, cause error, what string) {
	t.Helper()
	var m model
	var failed *journal.FailedError
	err := scenario(fs, small(), &m)
	if !errors.Is(err, cause) || !errors.As(err, &failed) || failed.Op == "" || failed.File == "" {
		t.Fatalf("%s: %v", what, err)
	}
	for _, loss := range []simfs.Loss{simfs.Kill, simfs.Drop, simfs.Tear} {
		again := fs.Clone()
		again.Restart(loss)
		n := recovered(t, again, m.n, fmt.Sprintf("%s, loss %d", what, loss))
		again.Restart(simfs.Drop)
		recovered(t, again, n, fmt.Sprintf("%s, loss %d, then power loss", what, loss))
	}
}

func TestAFailureStays(t *testing.T) {
	for _, first := range []string{"commit", "checkpoint"} {
		fs := simfs.New(1)
		var m model
		j := mustOpen(t, fs, small(), &m)
		mustCommit(t, j, &m, 3)
		fs.Fault = simfs.Fault{Step: fs.Steps() + 2, Err: syscall.EIO}
		var err error
		if first == "commit" {
			err = commit(j, &m)
		} else {
			err = j.Checkpoint(m.state())
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("%s: %v", first, err)
		}
		fs.Fault = simfs.Fault{}
		steps := fs.Steps()
		for range 3 {
			if again := commit(j, &m); !errors.Is(again, err) {
				t.Errorf("commit after a failed %s: %v", first, again)
			}
			if again := j.Checkpoint(nil); !errors.Is(again, err) {
				t.Errorf("checkpoint after a failed %s: %v", first, again)
			}
		}
		if err := j.Close(); err != nil || fs.Steps() != steps || m.n != 3 {
			t.Errorf("after a failed %s: %d steps, %d commits, close: %v", first, fs.Steps()-steps, m.n, err)
		}
	}
}

// shortFS writes all but the last byte and says so without an error.
type shortFS struct{ journal.FS }

type shortFile struct{ journal.File }

func (s shortFS) Open(name string) (journal.File, error) {
	f, err := s.FS.Open(name)
	return shortFile{f}, err
}

func (s shortFile) WriteAt(p []byte, off int64) (int, error) {
	return s.File.WriteAt(p[:len(p)-1], off)
}

func TestAShortWriteIsAFailure(t *testing.T) {
	fs := simfs.New(1)
	var m model
	j := mustOpen(t, fs, small(), &m)
	mustCommit(t, j, &m, 3)
	var failed *journal.FailedError
	if _, err := open(shortFS{fs}, small(), &m); !errors.As(err, &failed) || failed.Op != "write" {
		t.Errorf("short write: %v", err)
	}
	fs.Restart(simfs.Drop)
	recovered(t, fs, 3, "after a short write")
}

// readFS fails once, when left reads of any kind have been made.
type readFS struct {
	journal.FS
	err  error
	left *int
}

func (r readFS) failed() error {
	if *r.left--; *r.left == 0 {
		return r.err
	}
	return nil
}

func (r readFS) List() ([]string, error) {
	if err := r.failed(); err != nil {
		return nil, err
	}
	return r.FS.List()
}

func (r readFS) Open(name string) (journal.File, error) {
	if err := r.failed(); err != nil {
		return nil, err
	}
	f, err := r.FS.Open(name)
	return readFile{f, r}, err
}

type readFile struct {
	journal.File
	fs readFS
}

func (r readFile) Size() (int64, error) {
	if err := r.fs.failed(); err != nil {
		return 0, err
	}
	return r.File.Size()
}

func (r readFile) ReadAt(p []byte, off int64) (int, error) {
	if err := r.fs.failed(); err != nil {
		return 0, err
	}
	return r.File.ReadAt(p, off)
}

// TestFailedReads: whatever can't be read ends a recovery, and the next one finds everything. A file that
// is shorter than its length is such a failure.
func TestFailedReads(t *testing.T) {
	fs := simfs.New(1)
	var m model
	if err := scenario(fs, small(), &m); err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{syscall.EIO, io.EOF} {
		for n := 1; ; n++ {
			again, left := fs.Clone(), n
			var got model
			_, err := open(readFS{again, cause, &left}, small(), &got)
			if err == nil {
				if n < 10 {
					t.Errorf("a recovery has only %d reads", n-1)
				}
				break
			}
			if !errors.Is(err, cause) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("read %d: %v", n, err)
			}
			again.Restart(simfs.Drop)
			recovered(t, again, m.n, fmt.Sprintf("read %d failed", n))
		}
	}
}

func TestAnErrorOfTheCallerEndsTheRecovery(t *testing.T) {
	fs := simfs.New(1)
	var m model
	if err := scenario(fs, small(), &m); err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	ok := func([]byte) error { return nil }
	no := func([]byte) error { return mine }
	for i, f := range [][2]func([]byte) error{{no, ok}, {ok, no}} {
		j, err := journal.Open(fs, small())
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Recover(f[0], f[1]); !errors.Is(err, mine) {
			t.Errorf("%d: %v", i, err)
		}
		if err := j.Commit([]byte("x")); !errors.Is(err, mine) {
			t.Errorf("%d: commit after it: %v", i, err)
		}
	}
}
