package simfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// must is for what can't fail in these tests.
func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f journal.File, text string, off int64) {
	t.Helper()
	must[int](t)(f.WriteAt([]byte(text), off))
}

func list(t *testing.T, f *simfs.FS) string {
	t.Helper()
	return strings.Join(must[[]string](t)(f.List()), " ")
}

func TestWhatACrashLoses(t *testing.T) {
	build := func() *simfs.FS {
		d := simfs.New(1)
		a := must[journal.File](t)(d.Create("a"))
		write(t, a, "old", 0)
		check(t, a.Sync(), d.SyncDir())
		write(t, a, "new, longer", 0)
		b := must[journal.File](t)(d.Create("b"))
		write(t, b, "b", 0)
		check(t, b.Sync(), d.Rename("b", "c"))
		return d
	}
	kill := build()
	kill.Restart(simfs.Kill)
	if list(t, kill) != "a c" || string(kill.Content("a")) != "new, longer" {
		t.Errorf("kill: %s, %s", list(t, kill), kill.Content("a"))
	}
	drop := build()
	drop.Restart(simfs.Drop)
	if list(t, drop) != "a" || string(drop.Content("a")) != "old" {
		t.Errorf("drop: %s, %s", list(t, drop), drop.Content("a"))
	}
	synced := build()
	check(t, synced.SyncDir())
	synced.Restart(simfs.Drop)
	if list(t, synced) != "a c" || string(synced.Content("c")) != "b" {
		t.Errorf("drop after SyncDir: %s", list(t, synced))
	}
}

func TestTearKeepsSectorsAndEntriesAtRandom(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		d := simfs.New(seed)
		f := must[journal.File](t)(d.Create("f"))
		write(t, f, strings.Repeat(".", 3*simfs.Sector), 0)
		check(t, f.Sync(), d.SyncDir())
		write(t, f, strings.Repeat("x", simfs.Sector), simfs.Sector/2) // two sectors, in part
		must[journal.File](t)(d.Create("g"))
		check(t, d.Rename("f", "h"))
		twin := d.Clone()
		d.Restart(simfs.Tear)
		twin.Restart(simfs.Tear)
		state := func(d *simfs.FS) string {
			b := append(d.Content("f"), d.Content("h")...)
			return fmt.Sprintf("%s %c%c%c%c", list(t, d), b[0], b[simfs.Sector-1], b[simfs.Sector], b[3*simfs.Sector-1])
		}
		if state(d) != state(twin) {
			t.Fatalf("seed %d: %s and %s", seed, state(d), state(twin))
		}
		seen[state(d)]++
	}
	if len(seen) != 16 { // g or not, f or h, each of two sectors or not
		t.Errorf("%d outcomes: %v", len(seen), seen)
	}
}

func TestAFailedSyncLosesTheDataForGood(t *testing.T) {
	d := simfs.New(1)
	f := must[journal.File](t)(d.Create("f"))
	check(t, d.SyncDir())
	write(t, f, "one", 0)
	d.Fault = simfs.Fault{Step: d.Steps() + 1, Err: syscall.EIO}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	check(t, f.Sync())
	if string(d.Content("f")) != "one" {
		t.Error("not readable after a failed sync")
	}
	twin := d.Clone()
	d.Restart(simfs.Drop)
	if len(d.Content("f")) != 0 {
		t.Error("a second sync made lost data durable")
	}
	// The same bytes written again are durable after a sync.
	g := must[journal.File](t)(twin.Open("f"))
	write(t, g, "one", 0)
	check(t, g.Sync())
	twin.Restart(simfs.Drop)
	if string(twin.Content("f")) != "one" {
		t.Error("written again and synced, and not durable")
	}
}

func TestFaults(t *testing.T) {
	d := simfs.New(1)
	var trace []string
	d.Trace = func(s simfs.Step) { trace = append(trace, fmt.Sprint(s.N, " ", s)) }
	f := must[journal.File](t)(d.Create("f"))
	d.Fault = simfs.Fault{Step: 2, Err: syscall.ENOSPC, Keep: 2}
	if n, err := f.WriteAt([]byte("abc"), 0); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(n, err)
	}
	d.ReadFault = simfs.Fault{Step: d.Reads() + 1, Err: syscall.EIO}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if n, err := f.ReadAt(b, 0); n != 2 || !errors.Is(err, io.EOF) || string(b[:n]) != "ab" {
		t.Fatal(n, err)
	}
	d.Fault = simfs.Fault{Step: 3}
	write := func() error { _, err := f.WriteAt([]byte("c"), 2); return err }
	_, open := d.Open("f")
	check(t, open)
	if err := write(); !errors.Is(err, simfs.ErrCrashed) || !d.Crashed() {
		t.Fatal(err)
	}
	_, create := d.Create("g")
	_, open = d.Open("f")
	_, names := d.List()
	_, read := f.ReadAt(b, 0)
	for i, err := range []error{create, open, names, read, write(), f.Sync(), d.Remove("f"), d.Rename("f", "g"), d.SyncDir()} {
		if !errors.Is(err, simfs.ErrCrashed) {
			t.Errorf("%d after a crash: %v", i, err)
		}
	}
	d.Restart(simfs.Kill)
	_, read = f.ReadAt(b, 0)
	_, size := f.Size()
	for i, err := range []error{read, size, write(), f.Sync(), f.Close()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%d by a handle of the life before: %v", i, err)
		}
	}
	want := "1 create f;2 write f [0,3);3 write f [2,3)"
	if got := strings.Join(trace, ";"); got != want || string(d.Content("f")) != "abc" {
		t.Errorf("trace %s, content %q", got, d.Content("f"))
	}
	d.ReadFault = simfs.Fault{Step: d.Reads() + 1}
	if _, err := d.List(); !errors.Is(err, simfs.ErrCrashed) {
		t.Errorf("crash at a read: %v", err)
	}
}

func TestNamesThatAreNotThere(t *testing.T) {
	d := simfs.New(1)
	_, open := d.Open("x")
	for i, err := range []error{open, d.Remove("x"), d.Rename("x", "y")} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: %v", i, err)
		}
	}
	must[journal.File](t)(d.Create("x"))
	if _, err := d.Create("x"); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if d.Content("y") != nil {
		t.Error("content of nothing")
	}
	d.Put("x", nil)
	if list(t, d) != "" {
		t.Error("Put of nil removes")
	}
}

func TestClonesAreIndependent(t *testing.T) {
	d := simfs.New(1)
	f := must[journal.File](t)(d.Create("f"))
	write(t, f, "one", 0)
	c := d.Clone()
	g := must[journal.File](t)(c.Open("f"))
	write(t, f, "two", 0)
	write(t, g, "six", 0)
	check(t, g.Sync(), c.SyncDir())
	if string(d.Content("f")) != "two" || string(c.Content("f")) != "six" {
		t.Errorf("%s, %s", d.Content("f"), c.Content("f"))
	}
	d.Restart(simfs.Drop)
	c.Restart(simfs.Drop)
	if list(t, d) != "" || string(c.Content("f")) != "six" {
		t.Errorf("after a crash: %q, %s", list(t, d), c.Content("f"))
	}
}
