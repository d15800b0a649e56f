package supervise

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// cyclesVariable sets another number of cycles of TestCycles: CUTBANK_CYCLES=1000 is the long run.
const cyclesVariable = "CUTBANK_CYCLES"

// held is what this process holds.
type holdings struct{ goroutines, descriptors, sockets, children int }

func (b *bench) holdings() holdings {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	sockets, _ := filepath.Glob(filepath.Join(b.cfg.Sockets, "*"))
	children, _ := filepath.Glob("/proc/self/task/*/children")
	n := 0
	for _, f := range children {
		content, _ := os.ReadFile(f)
		n += len(content)
	}
	return holdings{runtime.NumGoroutine(), len(fds), len(sockets), n}
}

// TestCycles: a child is killed and started again many times; the launcher holds then what it held before.
func TestCycles(t *testing.T) {
	cycles := 30
	if n, err := strconv.Atoi(os.Getenv(cyclesVariable)); err == nil {
		cycles = n
	}
	b := start(t, Config{}, self(t, "a", "good"))
	var healthy, ready []time.Duration
	cycle := func() {
		pid := b.Status()[0].PID
		b.signal(pid, syscall.SIGKILL)
		healthy = append(healthy, b.until("a", EventHealthy).Down)
		ready = append(ready, b.until("a", EventReady).Down)
	}
	b.until("a", EventReady)
	for range 10 {
		cycle() // pools and caches are filled
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	// The lowest of some looks: what the last cycle started may not have ended yet.
	lowest := func() holdings {
		h := b.holdings()
		for range 20 {
			time.Sleep(20 * time.Millisecond)
			now := b.holdings()
			h = holdings{min(h.goroutines, now.goroutines), min(h.descriptors, now.descriptors), min(h.sockets, now.sockets), min(h.children, now.children)}
		}
		return h
	}
	had := lowest()
	for range cycles {
		cycle()
	}
	deadline := time.Now().Add(time.Minute)
	has := lowest()
	for (has.goroutines > had.goroutines+2 || has.descriptors > had.descriptors) && time.Now().Before(deadline) {
		has = lowest()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	slices.Sort(healthy)
	slices.Sort(ready)
	t.Logf("%d cycles; exit seen to healthy: median %s; before %+v, after %+v; heap %d kB, then %d kB",
		cycles, healthy[len(healthy)/2], had, has, before.HeapAlloc>>10, after.HeapAlloc>>10)
	if has.goroutines > had.goroutines+2 || has.descriptors > had.descriptors || has.sockets > had.sockets || has.children > had.children+8 {
		t.Errorf("before %+v, after %+v", had, has)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// TestAdoptRealProcess: the process of a supervisor that left is taken over, watched, replaced and stopped.
func TestAdoptRealProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	c := self(t, "a", "locks", dir)
	c.Dir = dir
	b := start(t, Config{}, c)
	first := b.until("a", EventReady)
	b.Leave()
	b.stop()
	cfg := b.cfg
	b2 := startIn(t, cfg.Sockets, Config{}, c)
	if e := b2.until("a", EventAdopted); e.PID != first.PID || e.Waits != "" {
		t.Errorf("%+v, want pid %d", e, first.PID)
	}
	if e := b2.until("a", EventReady); e.PID != first.PID || e.Restarts != 0 {
		t.Errorf("%+v", e)
	}
	b2.signal(first.PID, syscall.SIGSTOP)
	if e := b2.until("a", EventExited); e.PID != first.PID || e.Cause != Hung {
		t.Errorf("%+v", e)
	}
	second := b2.until("a", EventReady)
	if second.PID == first.PID {
		t.Error("not replaced")
	}
	b2.Leave()
	b2.stop()
	c.Args = append(slices.Clone(c.Args), "other")
	b3 := startIn(t, cfg.Sockets, Config{}, c)
	if e := b3.until("a", EventAdopted); e.PID != second.PID || e.Waits == "" {
		t.Errorf("with other arguments: %+v", e)
	}
	b3.until("a", EventReady)
	b3.stop()
	if left, _ := os.ReadDir(cfg.Sockets); len(left) != 0 {
		t.Errorf("sockets left: %v", left)
	}
}
