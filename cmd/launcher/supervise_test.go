package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cutbank/internal/supervise"
)

// ask runs a subcommand.
func (b *bank) ask(want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	var o, e bytes.Buffer
	cmd := exec.Command(filepath.Join(b.dir, "launcher"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, &o, &e
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != want {
		b.t.Fatalf("%v: %v, want exit code %d\n%s", args, err, want, &e)
	}
	return o.String(), e.String()
}

// status waits until the status of all branches is as it should be.
func (b *bank) status(ok func(report) bool) report {
	b.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var r report
		out, _ := b.ask(0, "status", "--json")
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			b.t.Fatalf("%v: %s", err, out)
		}
		if ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the status is never as it should be: %s", out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func allReady(r report) bool {
	for _, s := range r.Branches {
		if s.State != "ready" {
			return false
		}
	}
	return len(r.Branches) == 4
}

// hung tells that a branch was replaced since it passed for hung: the machine was busy.
func hung(s supervise.Status) bool { return s.Causes[supervise.Hung] > 0 }

// alive are the processes of branches, by name.
func (b *bank) alive() map[string]int {
	all := map[string]int{}
	for i := range 4 {
		name := fmt.Sprintf("branch%d", i+1)
		if pids := b.pids(name + "\x00"); len(pids) == 1 {
			all[name] = pids[0]
		}
	}
	return all
}

// end sends signals one after the other and waits for the launcher.
func (r *running) end(signals ...syscall.Signal) error {
	r.t.Helper()
	for _, s := range signals {
		if err := r.cmd.Process.Signal(s); err != nil {
			r.t.Fatal(err)
		}
	}
	for range r.lines { // to its end
	}
	return r.cmd.Wait()
}

// logLines lets a branch log many lines: a connection that ends before it says anything is worth one.
func (b *bank) logLines(address string, n int) {
	b.t.Helper()
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.t.Fatal(err)
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		_, _ = c.Read(make([]byte, 1)) // until it is closed
		_ = c.Close()
	}
}

// TestLauncherKilled: the branches live on, paying and logging; the next launcher takes over the same
// processes and goes on with the next snapshot; a second one is refused; down stops what has no launcher.
func TestLauncherKilled(t *testing.T) {
	t.Parallel()
	lines := 300
	if n, err := strconv.Atoi(os.Getenv("CUTBANK_LOG_LINES")); err == nil {
		lines = n
	}
	b := newBank(t)
	r := b.start("--log-level", "debug")
	r.until(`^snapshot 2 `)
	b.ask(0, "pause", "branch3")
	b.status(func(r report) bool { return r.Branches[2].State == "paused" })
	if err := r.end(syscall.SIGKILL); err == nil {
		t.Error("the launcher survived a kill -9")
	}
	before := b.alive() // all, unless one was just being replaced that passed for hung
	if _, stderr := b.ask(2, "kill", "branch1"); !strings.Contains(stderr, "no launcher runs on data/branches.txt-4000") {
		t.Errorf("kill without a launcher: %s", stderr)
	}
	roster, _ := os.ReadFile(filepath.Join(b.dir, "branches.txt"))
	for line := range strings.Lines(string(roster)) {
		f := strings.Fields(line)
		if before[f[0]] == 0 || f[0] == "branch3" { // that one is stopped
			continue
		}
		b.logLines(net.JoinHostPort(f[1], f[2]), lines)
		log, _ := os.ReadFile(filepath.Join(b.dir, "data", "branches.txt-4000", f[0], "branch.log"))
		if n := bytes.Count(log, []byte("\n")); n < lines {
			t.Errorf("%s has logged %d lines of %d", f[0], n, lines)
		}
	}
	r = b.start("--log-level", "debug")
	r.until(`^branch\d is adopted`)
	if _, stderr := b.run(75); !strings.Contains(stderr, "is in use by pid "+strconv.Itoa(r.cmd.Process.Pid)) {
		t.Errorf("a second launcher:\n%s", stderr)
	}
	b.status(func(r report) bool { return r.Branches[2].State == "paused" }) // it is adopted too
	b.ask(0, "resume", "branch3")
	r.until(`^snapshot \d+ .* = 4000 ✓`)
	after := b.status(allReady)
	for _, s := range after.Branches {
		if pid := before[s.Name]; pid != 0 && (s.PID != pid || !s.Adopted || s.Restarts != 0) && !hung(s) {
			t.Errorf("%+v was %d", s, pid)
		}
	}
	if table, _ := b.ask(0, "status"); !strings.Contains(table, "BRANCH") || !strings.Contains(table, strconv.Itoa(after.Branches[0].PID)) {
		t.Errorf("table:\n%s", table)
	}
	if err := r.end(syscall.SIGKILL); err == nil {
		t.Error("the launcher survived a kill -9")
	}
	if len(b.alive()) == 0 {
		t.Error("none is alive without a launcher")
	}
	b.ask(0, "down")
	b.nothingLeft()
}

// nothingLeft: no process, socket or lock.
func (b *bank) nothingLeft() {
	b.t.Helper()
	if left := b.pids(""); len(left) > 0 {
		b.t.Errorf("processes left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "data", "branches.txt-4000", "run", "plugin*")); len(left) > 0 {
		b.t.Errorf("sockets left: %v", left)
	}
	if stdout, _ := b.ask(2, "status"); stdout != "" {
		b.t.Errorf("status of nothing: %s", stdout)
	}
}

// TestDetach: Ctrl-C ends the launcher alone; the next one adopts; down ends both.
func TestDetach(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start("--detach")
	r.until(`^snapshot 1 `)
	b.status(allReady)
	if err := r.end(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	before := b.alive()
	if len(before) == 0 {
		t.Error("none is alive without a launcher")
	}
	r = b.start("--detach")
	r.until(`^snapshot [2-9]\d* `)
	for _, s := range b.status(allReady).Branches {
		if pid := before[s.Name]; pid != 0 && s.PID != pid && !hung(s) {
			t.Errorf("%s is another process", s.Name)
		}
	}
	b.ask(0, "down")
	for range r.lines { // to its end
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
}

// TestPortTaken: a branch whose port somebody takes fails, in words with the culprit's pid, the others do
// not feel it, and reset brings it back when the port is free.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start()
	r.until(`^snapshot 1 `)
	before := b.status(allReady)
	roster, _ := os.ReadFile(filepath.Join(b.dir, "branches.txt"))
	f := strings.Fields(strings.Split(string(roster), "\n")[1])
	address := net.JoinHostPort(f[1], f[2])
	// Between a kill and the start that follows the port is free for a moment: sooner or later it is ours.
	var l net.Listener
	for deadline := time.Now().Add(2 * time.Minute); l == nil; {
		for _, pid := range b.pids("branch2\x00") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for try := time.Now().Add(100 * time.Millisecond); l == nil && time.Now().Before(try); {
			l, _ = net.Listen("tcp", address)
		}
		if time.Now().After(deadline) {
			t.Fatal("the port was never free")
		}
	}
	failed := b.status(func(r report) bool { return r.Branches[1].State == "failed" })
	want := fmt.Sprintf("port %s is in use by pid %d (", f[2], os.Getpid())
	if why := failed.Branches[1].LastExit; !strings.Contains(why, want) {
		t.Errorf("failed with %q, want %q", why, want)
	}
	for _, i := range []int{0, 2, 3} {
		if s := failed.Branches[i]; (s.PID != before.Branches[i].PID || s.Restarts != 0) && !hung(s) && !hung(before.Branches[i]) {
			t.Errorf("another branch feels it: %+v", s)
		}
	}
	_ = l.Close()
	b.ask(0, "reset", "branch2")
	b.status(allReady)
	if err := r.end(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
}

// TestReaderGone: when nobody reads the results any more the bank is stopped in order.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	cmd := b.command()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	results, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = results.Read(make([]byte, 1)) // as head -1 does
	_ = results.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("exit code %d (%s):\n%s", code, cmd.ProcessState, &stderr)
	}
	b.nothingLeft()
}

// makeDeaf makes a branch with hooks ignore SIGTERM.
func makeDeaf(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	ignored := regexp.MustCompile(`(?m)^SigIgn:\s+([0-9a-f]+)$`)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if m := ignored.FindSubmatch(status); m != nil {
			if set, err := strconv.ParseUint(string(m[1]), 16, 64); err == nil && set&(1<<(syscall.SIGTERM-1)) != 0 {
				return
			}
		}
	}
	t.Fatalf("%d is not deaf", pid)
}

// TestHooks: a branch whose loop is deadlocked is replaced; one that is deaf to SIGTERM is named and
// killed; Ctrl-C reaches the whole process group, as in a terminal, and only the launcher acts on it.
func TestHooks(t *testing.T) {
	t.Parallel()
	b := newBankOf(t, "hooked")
	r := b.start()
	r.until(`^snapshot 1 `)
	before := b.status(allReady)
	if err := syscall.Kill(before.Branches[0].PID, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	r.until(`^branch1 \(pid ` + strconv.Itoa(before.Branches[0].PID) + `\) hangs: killing it`)
	after := b.status(func(r report) bool { return allReady(r) && r.Branches[0].PID != before.Branches[0].PID })
	if got := after.Branches[0].Causes["hung"]; got < 1 {
		t.Errorf("%+v", after.Branches[0])
	}
	deaf := after.Branches[1].PID
	makeDeaf(t, deaf)
	if err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r.until(`^branch2 \(pid ` + strconv.Itoa(deaf) + `\) does not end when asked to: killing it`)
	r.until(`^restarts: \d+ × hung(, \d+ × killed)?; longest recovery`)
	if err := r.end(); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
}

// TestSecondCtrlC kills at once.
func TestSecondCtrlC(t *testing.T) {
	t.Parallel()
	b := newBankOf(t, "hooked")
	for try := 1; ; try++ {
		r := b.start()
		r.until(`^snapshot \d+ `)
		for _, s := range b.status(allReady).Branches {
			makeDeaf(t, s.PID)
		}
		_ = r.cmd.Process.Signal(os.Interrupt)
		r.until(`^money in snapshot`)
		time.Sleep(5 * sameCtrlC) // a second one, not the same
		_ = r.cmd.Process.Signal(os.Interrupt)
		late := false // the launcher's own patience was over before
		for line := range r.lines {
			late = late || strings.Contains(line, "does not end when asked to: killing it")
		}
		err := r.cmd.Wait()
		b.nothingLeft()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
			return
		}
		if !late || try == 5 {
			t.Fatalf("try %d: %v", try, err)
		}
	}
}

// TestChaos: kills, hangs and cut links on end; every snapshot is exact, and the score is told.
func TestChaos(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start("--chaos", "1s", "--seed", "2472") // kill, stop, kill and cut in the first seconds
	for range 3 {
		r.until(`^chaos: (kill|stop) branch`)
	}
	r.until(`^the link .* is cut for`)
	r.until(`^snapshot \d+ .* = 4000 ✓`)
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r.until(`^chaos: \d+ killed, \d+ stopped, \d+ links cut`)
	r.until(`^restarts: .*\d+ × killed by chaos`)
	_ = r.end() // a branch may have failed meanwhile: what counts is the books
	b.ids(r.out.String())
	b.nothingLeft()
}

// TestStandaloneBranch that already has its directory is watched, not started, and not counted as a crash.
func TestStandaloneBranch(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	roster, _ := os.ReadFile(filepath.Join(b.dir, "branches.txt"))
	f := strings.Fields(strings.Split(string(roster), "\n")[3])
	alone := exec.Command(filepath.Join(b.dir, "branch"), f[0], f[2], "--data-dir", "data/branches.txt-4000", "--interval", "20ms")
	alone.Dir = b.dir
	if err := alone.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = alone.Process.Kill(), alone.Wait() }()
	lock := filepath.Join(b.dir, "data", "branches.txt-4000", f[0], "lock")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if content, _ := os.ReadFile(lock); len(content) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the standalone branch never starts")
		}
	}
	r := b.start("--http", "127.0.0.1:0")
	address := r.address()
	r.until(`^branch4 answers; it is watched, not started: already running as pid ` + strconv.Itoa(alone.Process.Pid))
	r.until(`^snapshot 1 .* = 4000 ✓`)
	s := b.status(func(r report) bool { return r.Branches[3].State == "remote" }).Branches[3]
	if s.Restarts != 0 || len(s.Causes) != 0 || s.PID != 0 {
		t.Errorf("%+v", s)
	}
	for end := time.Now().Add(patience); !strings.Contains(string(get(t, address+"/metrics")), `cutbank_branch_up{branch="branch4"} 1`); {
		if time.Now().After(end) {
			t.Fatal("its links are up, but /metrics says they are not")
		}
	}
	if _, stderr := b.ask(1, "kill", "branch4"); !strings.Contains(stderr, "it is remote") {
		t.Errorf("kill: %s", stderr)
	}
	if err := r.end(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(alone.Process.Pid, 0); err != nil {
		t.Errorf("the standalone branch has ended with the launcher: %v", err)
	}
	_ = alone.Process.Signal(syscall.SIGTERM)
	_ = alone.Wait()
	b.nothingLeft()
}

// TestChaosChoices depend on the seed alone.
func TestChaosChoices(t *testing.T) {
	choices := func(seed uint64) (all string) {
		c := newChaos(time.Second, seed)
		status := []supervise.Status{{Name: "a", State: "ready", PID: 1}, {Name: "b", State: "paused", PID: 2}, {Name: "c", State: "running", PID: 3}}
		for range 300 {
			if c.wait() > 5*time.Second {
				t.Error("a wait of more than five times the mean")
			}
			b, ok := c.choose(status)
			if !ok || b.name == b.peer || (b.name == "b" && b.verb != "cut") {
				t.Errorf("%+v", b)
			}
			all += b.verb + b.name + b.peer
		}
		return all
	}
	if first, again := choices(1), choices(1); first != again || first == choices(2) {
		t.Error("choices are not those of the seed")
	}
	for _, verb := range []string{"kill", "stop", "cut"} {
		if !strings.Contains(choices(1), verb) {
			t.Errorf("never: %s", verb)
		}
	}
}
