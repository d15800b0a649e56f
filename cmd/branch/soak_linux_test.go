package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soakEnv is how much of the soak: campaigns, as 20, or a time, as 10m. Not set: one short campaign.
const soakEnv = "CUTBANK_TEST_SOAK"

// figures are what a soak really did.
type figures struct {
	mu                              sync.Mutex
	campaigns, transfers, snapshots int
	made                            map[string]int // by kind
	pairs                           map[string]int // of two kinds, both of which happened
}

// TestSoak strikes banks of real processes with every kind of fault, alone and two kinds at once. After
// each blow all branches have to come back and another snapshot has to be exact. Then come storms: pauses,
// partitions and resets on several branches at a time. After each campaign the bank is drained, and every
// transfer was received once, in order.
func TestSoak(t *testing.T) {
	f := &figures{made: map[string]int{}, pairs: map[string]int{}}
	amount, began := os.Getenv(soakEnv), time.Now()
	campaigns, err := strconv.Atoi(amount)
	limit, err2 := time.ParseDuration(amount)
	if amount != "" && err != nil && err2 != nil {
		t.Fatalf("%s=%s is neither a number of campaigns nor a time", soakEnv, amount)
	}
	long, begun := amount != "", atomic.Int64{}
	worker := func(t *testing.T) {
		t.Helper()
		for {
			n := int(begun.Add(1))
			if n > max(1, campaigns) && time.Since(began) >= limit || t.Failed() {
				return
			}
			t.Run(strconv.Itoa(n), func(t *testing.T) { campaign(t, f, n, long) })
			t.Logf("campaign %d ended, %s", n, time.Since(began).Round(time.Second))
		}
	}
	t.Run("banks", func(t *testing.T) {
		for k := range map[bool]int{false: 1, true: 4}[long] { // much of a campaign is waiting
			t.Run(strconv.Itoa(k), func(t *testing.T) {
				t.Parallel()
				worker(t)
			})
		}
	})
	f.check(t, long)
	t.Logf("\n%s", f)
}

// check fails for what never happened.
func (f *figures) check(t *testing.T, pairs bool) {
	t.Helper()
	for i, a := range kinds() {
		if f.made[a.name] == 0 {
			t.Errorf("never happened: %s", a.name)
		}
		for _, b := range kinds()[:i] {
			if pairs && f.pairs[b.name+a.name] == 0 {
				t.Errorf("never happened at once: %s; %s", b.name, a.name)
			}
		}
	}
}

// String is the table that tools/soak.sh puts into docs/soak.md.
func (f *figures) String() string {
	var b strings.Builder
	row := func(what string, n int) { fmt.Fprintf(&b, "| %s | %d |\n", what, n) }
	for _, k := range kinds() {
		row(k.name, f.made[k.name])
	}
	all, rarest := 0, math.MaxInt
	for n := range maps.Values(f.pairs) {
		all, rarest = all+n, min(rarest, n)
	}
	row(fmt.Sprintf("two of these kinds at once (%d of %d pairs)", len(f.pairs), len(kinds())*(len(kinds())-1)/2), all)
	if all > 0 {
		row("the rarest of these pairs", rarest)
	}
	row("campaigns", f.campaigns)
	row("snapshots, all exact", f.snapshots)
	row("transfers, each received once", f.transfers)
	return b.String()
}

// soak is a bank whose branches are reached through proxies.
type soak struct {
	*trial
	proxies  []*proxy
	interval string // longest wait between transfers
}

// storms of a long campaign, each of a pause, a partition and resets of two branches.
const storms = 40

// campaign strikes one bank; when it is long, also with two kinds at once, and in storms. Every fourth is at
// full load, the others pay at most every millisecond, so that several find room on one machine.
func campaign(t *testing.T, f *figures, n int, long bool) {
	t.Helper()
	s := &soak{trial: newTrial(t, 4), interval: "1ms"}
	if n%4 == 1 {
		s.interval = "0"
	}
	for i, port := range s.ports {
		behind := FreePort(t, port+1)
		if err := os.WriteFile(filepath.Join(s.scratch, s.name(i)+".port"), []byte(strconv.Itoa(behind)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.proxies = append(s.proxies, newProxy(t, port, behind))
	}
	s.launch()
	s.wait("the first snapshot", func() bool { return s.snapshots > 0 })
	var blows [][]kind
	for i, a := range kinds() {
		blows = append(blows, []kind{a})
		for _, b := range kinds()[:i] {
			if long {
				blows = append(blows, []kind{b, a})
			}
		}
	}
	rand.Shuffle(len(blows), func(i, j int) { blows[i], blows[j] = blows[j], blows[i] })
	for _, blow := range blows {
		for try := 1; !s.strike(f, blow) && try < 5; try++ { // something else ended the branch: it passed for hung
			t.Logf("not all of it happened: %s", blow[0].name)
		}
	}
	for range storms {
		if long {
			s.storm(f)
		}
	}
	s.another()
	s.drain()
	transfers := s.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.transfers += transfers
	f.snapshots += s.count()
	f.campaigns++
}

// launch starts a launcher. It wants to find the ports of branches that do not run free: the proxies
// listen when all run.
func (s *soak) launch() {
	s.t.Helper()
	for _, p := range s.proxies {
		p.deafen()
	}
	s.trial.launch("--interval", s.interval)
	s.wait("all processes", func() bool {
		for i := range s.ports {
			if len(s.pids(s.name(i))) == 0 {
				return false
			}
		}
		return true
	})
	for _, p := range s.proxies {
		p.listen(s.t)
	}
}

// strike lets branches suffer a blow, of one kind or of two, and tells whether all of it really happened.
func (s *soak) strike(f *figures, blow []kind) bool {
	s.t.Helper()
	victims := rand.Perm(len(s.ports))
	var ends []func() int
	for k, b := range blow {
		if b.dialled && victims[k] > 1 {
			j := 2 + slices.IndexFunc(victims[2:], func(i int) bool { return i < 2 })
			victims[k], victims[j] = victims[j], victims[k]
		}
		ends = append(ends, b.strike(s, victims[k]))
	}
	happened, both := 0, ""
	for k, b := range blow {
		if n := ends[k](); n > 0 {
			f.count(b.name, n)
			happened++
			both += b.name
		}
		// As a user who does not wait until the launcher tries again, later after each failure.
		reset := exec.Command(filepath.Join(s.dir, "launcher"), "reset", s.name(victims[k]))
		reset.Dir = s.dir
		_ = reset.Run() // without it, it takes longer
	}
	if happened == 2 {
		f.mu.Lock()
		f.pairs[both]++
		f.mu.Unlock()
	}
	s.healed(blow[0].name)
	return happened == len(blow)
}

func (f *figures) count(kind string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[kind] += n
}

// healed waits until all branches are linked up and another snapshot is exact.
func (s *soak) healed(after string) {
	s.t.Helper()
	for i := range s.ports {
		s.patiently(s.name(i)+" to be ready after "+after, func() bool { return s.serves(i, true) })
	}
	s.another()
}

// storm pauses a branch, lets nothing pass to another, and resets connections of two, all at once.
func (s *soak) storm(f *figures) {
	s.t.Helper()
	pause := s.pause(rand.IntN(len(s.ports)))
	partition := s.partition(rand.IntN(2))
	for i := range 2 {
		f.count(wasReset, s.cut(i)())
	}
	f.count(paused, pause())
	f.count(partitioned, partition())
	s.healed("a storm")
}

// patiently waits for what does not depend on the launcher.
func (s *soak) patiently(what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("waiting for %s:\n%s", what, strings.Join(s.last, "\n"))
		}
	}
}

// serves tells that branch i answers, and, if that is asked for, is linked up with all.
func (s *soak) serves(i int, ready bool) bool {
	a, err := s.dial(i)
	if err != nil {
		return false
	}
	defer a.nc.Close()
	m, err := a.ask(statusRequest(nil))
	return err == nil && (m.GetStatus_().GetReady() || !ready)
}

// gone waits until processes of branch i have ended.
func (s *soak) gone(i int, pids []int) {
	s.t.Helper()
	s.patiently("the end of "+s.name(i), func() bool {
		for _, now := range s.pids(s.name(i)) {
			for _, pid := range pids {
				if now == pid {
					return false
				}
			}
		}
		return true
	})
}

// kind is a kind of fault. Strike begins it at branch i and does not wait; what it returns waits for its
// end and tells how often it really happened.
type kind struct {
	name    string
	dialled bool // only the first two branches: at least two peers dial them
	strike  func(s *soak, i int) (end func() int)
}

// The kinds that storms are made of.
const (
	paused      = "branch stopped for up to 300 ms, and continued"
	partitioned = "nothing passed a proxy for up to 1 s"
	wasReset    = "connections reset at a proxy"
)

// kinds lists them; of two at once the end of the earlier one is waited for first.
func kinds() []kind {
	return []kind{
		{"launcher killed (-9), a branch killed and started by hand meanwhile", false, (*soak).withoutLauncher},
		{paused, false, (*soak).pause},
		{partitioned, true, (*soak).partition},
		{wasReset, true, (*soak).cut},
		{"branch killed (-9)", false, (*soak).killed},
		{"branch stopped until the launcher replaced it", false, (*soak).hang},
		{"disk full: RLIMIT_FSIZE met by a write", false, (*soak).fullDisk},
		{"a sync failed (EIO)", false, (*soak).syncError},
		{"slow syncs, 20 ms each", false, (*soak).slowSync},
		{"second controller, killed (-9) after its first snapshot", false, (*soak).secondController},
	}
}

func (s *soak) withoutLauncher(i int) func() int {
	_ = s.cmd.Process.Kill()
	<-s.ended
	pids := s.signal(i, syscall.SIGKILL)
	s.gone(i, pids)
	alone := exec.Command(filepath.Join(s.dir, "branch"), s.name(i), strconv.Itoa(s.ports[i]), "--data-dir", s.dataDir(),
		"--interval", s.interval, "--amount", "1-3")
	alone.Env = append(os.Environ(), trialEnv+"="+s.scratch)
	if err := alone.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() int {
		s.patiently(s.name(i)+", started by hand", func() bool { return s.serves(i, false) })
		_, _ = alone.Process.Kill(), alone.Wait()
		s.launch()
		return len(pids)
	}
}

// signal sends a signal to the processes of branch i and tells which got it.
func (s *soak) signal(i int, sig syscall.Signal) (pids []int) {
	for _, pid := range s.pids(s.name(i)) {
		if syscall.Kill(pid, sig) == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *soak) killed(i int) func() int {
	pids := s.signal(i, syscall.SIGKILL)
	return func() int { s.gone(i, pids); return len(pids) }
}

func (s *soak) pause(i int) func() int {
	pids, done := s.signal(i, syscall.SIGSTOP), make(chan struct{})
	time.AfterFunc(rand.N(300*time.Millisecond), func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // the launcher may have replaced it
		}
		close(done)
	})
	return func() int { <-done; return len(pids) }
}

func (s *soak) hang(i int) func() int {
	pids := s.signal(i, syscall.SIGSTOP)
	return func() int { s.gone(i, pids); return len(pids) }
}

func (s *soak) cut(i int) func() int {
	n := s.proxies[i].cut()
	return func() int { return n }
}

func (s *soak) partition(i int) func() int {
	p, done := s.proxies[i], make(chan struct{})
	n := min(1, p.count())
	go func() {
		defer close(done)
		p.gate.Lock()
		time.Sleep(rand.N(time.Second))
		p.gate.Unlock()
	}()
	return func() int { <-done; return n }
}

func (s *soak) fullDisk(i int) func() int {
	return s.fails(i, "file too large", func(pid int) error {
		return unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: trialSegment / 2, Max: trialSegment / 2}, nil)
	})
}

func (s *soak) syncError(i int) func() int {
	return s.fails(i, "input/output error", func(int) error {
		return os.WriteFile(s.disk(i), []byte("fail"), 0o600)
	})
}

// disk is the file that tells the seam of branch i what its disk does.
func (s *soak) disk(i int) string { return filepath.Join(s.scratch, s.name(i)+".disk") }

// fails lets the disk of branch i fail. That is counted when the branch has said so itself.
func (s *soak) fails(i int, word string, arm func(pid int) error) func() int {
	count := func() int {
		log, _ := os.ReadFile(filepath.Join(s.dataDir(), s.name(i), "branch.log"))
		return bytes.Count(log, []byte(word))
	}
	before, pids := count(), s.pids(s.name(i))
	for _, pid := range pids {
		if err := arm(pid); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
	return func() int {
		s.gone(i, pids)
		_ = os.Remove(s.disk(i)) // something else may have ended it first
		return min(1, max(0, count()-before))
	}
}

func (s *soak) slowSync(i int) func() int {
	disk := s.disk(i)
	if err := os.WriteFile(disk, []byte("slow"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return func() int {
		slowed := func() int { content, _ := os.ReadFile(disk + ".slowed"); return len(content) }
		s.patiently("ten slow syncs", func() bool { return slowed() >= 10 })
		_ = os.Remove(disk)
		n := slowed()
		_ = os.Remove(disk + ".slowed")
		return n
	}
}

func (s *soak) secondController(int) func() int {
	cmd := exec.Command(filepath.Join(s.dir, "controller"), strconv.Itoa(trialTotal), "branches.txt", "--data-dir", s.dataDir(),
		"--snapshot-interval", "20ms", "--http", "")
	cmd.Dir = s.dir
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cmd.Process.Kill() }) // when the test failed meanwhile
	return func() int {
		late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		exact := regexp.MustCompile(fmt.Sprintf(`^snapshot \d+ .* = %d ✓`, trialTotal))
		said := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if said += lines.Text() + "\n"; exact.MatchString(lines.Text()) {
				_, _ = cmd.Process.Kill(), cmd.Wait()
				return 1
			}
		}
		s.t.Errorf("the second controller ended: %v\n%s", cmd.Wait(), said)
		return 0
	}
}
