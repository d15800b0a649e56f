package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutbank/internal/lifecycle"
	"cutbank/internal/roster"
)

// nextPort keeps the rosters of a test apart that are written before anyone listens.
var nextPort atomic.Int64

// bank is a directory with the two programs and a roster in it.
type bank struct {
	t   *testing.T
	dir string
}

func newBank(t *testing.T) *bank {
	t.Helper()
	return newBankOf(t, "branch")
}

// newBankOf is one with another program for its branches.
func newBankOf(t *testing.T, branch string) *bank {
	t.Helper()
	b := &bank{t: t, dir: t.TempDir()}
	install(t, b.dir, branch)
	rosterFile(t, b.dir, "branches.txt")
	t.Cleanup(func() {
		if pids := b.pids(""); len(pids) > 0 {
			t.Errorf("processes left: %v", pids)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return b
}

// freePorts are n of them that nobody else takes: below those that the system gives to dialling ends.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for port := 20000 + (os.Getpid()+int(nextPort.Add(100)))%12000; len(ports) < n; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			ports = append(ports, port)
		}
	}
	return ports
}

// rosterFile writes a roster of four free ports.
func rosterFile(t *testing.T, dir, name string) string {
	t.Helper()
	var roster strings.Builder
	for i, port := range freePorts(t, 4) {
		fmt.Fprintf(&roster, "branch%d 127.0.0.1 %d\n", i+1, port)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(roster.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func (b *bank) command(args ...string) *exec.Cmd {
	args = append([]string{"4000", "branches.txt", "--snapshot-interval", "100ms", "--interval", "20ms", "--link-delay", "1ms-20ms"}, args...)
	cmd := exec.Command(filepath.Join(b.dir, "launcher"), args...)
	cmd.Dir = b.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal's job
	return cmd
}

// run runs the launcher to its end.
func (b *bank) run(want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	var o, e bytes.Buffer
	cmd := b.command(args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != want {
		b.t.Fatalf("%v: %v, want exit code %d\n%s", args, err, want, &e)
	}
	return o.String(), e.String()
}

// pids of the branch processes of this bank.
func (b *bank) pids(name string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		content, _ := os.ReadFile(f)
		if strings.HasPrefix(string(content), filepath.Join(b.dir, "branch")+"\x00"+name) {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// pid of the process of a branch, once there is one.
func (b *bank) pid(name string) int {
	b.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if pids := b.pids(name + "\x00"); len(pids) == 1 {
			return pids[0]
		}
	}
	b.t.Fatalf("%s has %v", name, b.pids(name+"\x00"))
	return 0
}

// ids checks the blocks on stdout, form and sum, and returns their snapshot ids.
func (b *bank) ids(stdout string) (ids []string) {
	b.t.Helper()
	block := regexp.MustCompile(`^snapshot_id: (\d+)
branch1: \d+, branch2->branch1: \d+, branch3->branch1: \d+, branch4->branch1: \d+
branch2: \d+, branch1->branch2: \d+, branch3->branch2: \d+, branch4->branch2: \d+
branch3: \d+, branch1->branch3: \d+, branch2->branch3: \d+, branch4->branch3: \d+
branch4: \d+, branch1->branch4: \d+, branch2->branch4: \d+, branch3->branch4: \d+
$`)
	for text := range strings.SplitSeq(strings.TrimSuffix(stdout, "\n\n"), "\n\n") {
		m := block.FindStringSubmatch(text + "\n")
		if m == nil {
			b.t.Fatalf("not a block: %q", text)
		}
		sum := 0
		for _, n := range regexp.MustCompile(`(?m)(?:^branch\d|->branch\d): (\d+)`).FindAllStringSubmatch(text, -1) {
			money, _ := strconv.Atoi(n[1])
			sum += money
		}
		if sum != 4000 {
			b.t.Errorf("snapshot %s sums to %d", m[1], sum)
		}
		ids = append(ids, m[1])
	}
	return ids
}

// TestLife: opened, resumed, refused, restored, opened anew.
func TestLife(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	if _, stderr := b.run(2, "--restore", "3"); !strings.Contains(stderr, "--restore 3: ") || strings.Contains(stderr, "panic") {
		t.Errorf("restore of nothing:\n%s", stderr)
	}
	stdout, stderr := b.run(0, "--snapshots", "5", "--fresh")
	if ids := strings.Join(b.ids(stdout), " "); ids != "1 2 3 4 5" || !strings.Contains(stderr, "opened a new bank: 4000 in 4 branches") ||
		!regexp.MustCompile(`(?m)^transfers in this run: \d+ paid, \d+ received$`).MatchString(stderr) {
		t.Errorf("first run: ids %s\n%s", ids, stderr)
	}
	likeReadme(t, "launcher: 4000 in ", stderr)
	stdout, stderr = b.run(0, "--snapshots", "2")
	if ids := strings.Join(b.ids(stdout), " "); ids != "6 7" || !strings.Contains(stderr, "resumed the bank of 4000 in 4 branches, last snapshot 5") {
		t.Errorf("second run: ids %s\n%s", ids, stderr)
	}
	cmd := b.command("--data-dir", "data/branches.txt-4000")
	cmd.Args[1] = "5000"
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "--fresh") {
		t.Errorf("another total: %v\n%s", err, out)
	}
	stdout, stderr = b.run(0, "--snapshots", "1", "--restore", "3")
	if ids := strings.Join(b.ids(stdout), " "); ids != "8" && ids != "4" || !strings.Contains(stderr, "restored from snapshot 3") {
		t.Errorf("restore: ids %s\n%s", ids, stderr)
	}
	_, stderr = b.run(0, "--snapshots", "1", "--fresh")
	if !strings.Contains(stderr, "is kept in data/branches.txt-4000.old-2") || !strings.Contains(stderr, "opened a new bank") {
		t.Errorf("fresh:\n%s", stderr)
	}
	for _, dir := range []string{".old-1/branch1", ".old-2/branch1"} {
		if _, err := os.Stat(filepath.Join(b.dir, "data", "branches.txt-4000"+dir)); err != nil {
			t.Error(err)
		}
	}
	r := b.start("--fresh") // commands find it, and not the ones that are aside
	r.until("is kept in data/branches.txt-4000.old-3")
	r.until("all links are up")
	b.ask(0, "kill", "branch2")
	b.ask(0, "down")
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestPortInUse: nothing is started or moved, and the message says whose port it is and what to do.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	roster, err := os.ReadFile(filepath.Join(b.dir, "branches.txt"))
	if err != nil {
		t.Fatal(err)
	}
	port := strings.Fields(strings.Split(string(roster), "\n")[1])[2]
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	kept := filepath.Join(b.dir, "data", "branches.txt-4000", "branch1")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr := b.run(2, "--fresh")
	want := regexp.MustCompile(`port ` + port + ` is in use( by pid ` + strconv.Itoa(os.Getpid()) + ` \(.*\))?: stop it or edit branches\.txt line 2`)
	if !want.MatchString(stderr) || strings.Contains(stderr, "opened a new bank") {
		t.Errorf("a port in use:\n%s", stderr)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the bank was moved aside all the same: %v", err)
	}
}

// TestFreshHeld: a bank of which a branch runs is not moved aside, and its directory is left unlocked.
func TestFreshHeld(t *testing.T) {
	t.Parallel()
	o := &options{fresh: true}
	o.DataDir = filepath.Join(t.TempDir(), "bank")
	o.Roster.Branches = []roster.Branch{{Name: "branch1", Host: "127.0.0.1", Port: 1}}
	branch := filepath.Join(o.DataDir, "branch1")
	release, err := lifecycle.Lock(branch, lifecycle.LockFile)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for range 2 {
		_, err := o.takeDirectory(nil)
		if held := (*lifecycle.HeldError)(nil); !errors.As(err, &held) || held.Dir != branch {
			t.Errorf("%v", err)
		}
	}
}

// running is a launcher whose stderr is read line by line.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	out   bytes.Buffer
}

func (b *bank) start(args ...string) *running {
	b.t.Helper()
	return b.launch(b.command(args...))
}

// launch starts a command.
func (b *bank) launch(cmd *exec.Cmd) *running {
	b.t.Helper()
	r := &running{t: b.t, cmd: cmd, lines: make(chan string, 100_000)}
	r.cmd.Stdout = &r.out
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	return r
}

// until waits for a line that matches, and returns it.
func (r *running) until(pattern string) string {
	r.t.Helper()
	re, deadline := regexp.MustCompile(pattern), time.After(2*time.Minute)
	var passed []string
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("the launcher ended before it said %q:\n%s", pattern, strings.Join(passed, "\n"))
			}
			if re.MatchString(line) {
				return line
			}
			passed = append(passed[max(0, len(passed)-50):], line)
		case <-deadline:
			_ = r.cmd.Process.Kill()
			r.t.Fatalf("the launcher never said %q:\n%s", pattern, strings.Join(passed, "\n"))
		}
	}
}

// TestKills: branches are killed one by one, two at once, all at once, and hung, at full speed. Every
// snapshot is exact (or the launcher would end with 3), and Ctrl-C ends it all in order.
func TestKills(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := b.start("--interval", "0", "--link-delay", "0", "--amount", "1-3")
	r.until(`^snapshot 3 `)
	if _, stderr := b.run(75); !strings.Contains(stderr, "is in use by pid "+strconv.Itoa(r.cmd.Process.Pid)) {
		t.Errorf("a second launcher:\n%s", stderr)
	}
	kills := 0
	kill := func(signal syscall.Signal, names ...string) {
		t.Helper()
		for _, name := range names {
			pid := b.pid(name)
			if err := syscall.Kill(pid, signal); err != nil {
				t.Error(err)
			}
			kills++
		}
		for range names {
			r.until(` is back after `)
		}
		r.until(`^snapshot \d+ .* = 4000 ✓`)
	}
	for k := range 8 {
		kill(syscall.SIGKILL, fmt.Sprintf("branch%d", k%4+1))
	}
	kill(syscall.SIGKILL, "branch1", "branch3")
	kill(syscall.SIGKILL, "branch1", "branch2", "branch3", "branch4")
	kill(syscall.SIGSTOP, "branch4")
	if kills != 15 {
		t.Errorf("%d kills, not 15", kills)
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	counted := 0 // by cause; more than there were kills when the machine stalls, and branches pass for hung
	for _, m := range regexp.MustCompile(`(\d+) × `).FindAllStringSubmatch(r.until(`^restarts: .*\d+ × hung.*; longest`), -1) {
		n, _ := strconv.Atoi(m[1])
		counted += n
	}
	if counted < kills {
		t.Errorf("%d restarts counted, not %d", counted, kills)
	}
	for range r.lines { // to its end
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	b.ids(r.out.String())
}

// TestBreak opens a bank without a rule: its first snapshot does not add up, all lines are marked, and
// the bank with all rules in the same place is another one.
func TestBreak(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	cmd := b.command("--break", "marker-overtaken", "--duration", "60s")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Fatalf("%v, not exit code 3\n%s", err, stderr.String())
	}
	likeReadme(t, "$ ./launcher 4000 branches.txt --break", stderr.String())
	for line := range strings.Lines(stdout.String() + stderr.String()) {
		if text := strings.TrimPrefix(line, "launcher: "); len(line) > 1 && !strings.HasPrefix(text, "[rule off: marker-overtaken] ") {
			t.Errorf("not marked: %s", line)
		}
	}
	if out, err := b.command("--snapshots", "2").CombinedOutput(); err != nil || bytes.Contains(out, []byte("rule off")) {
		t.Errorf("the bank with all rules: %v\n%s", err, out)
	}
}
