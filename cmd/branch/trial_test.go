package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

const trialTotal = 4000

// trials counts them: several may run at a time, each in ports of its own.
var trials atomic.Int64

// trial is a bank of real processes whose branches are this test binary, with the seams.
type trial struct {
	t       *testing.T
	dir     string
	scratch string // of the seams
	ports   []int
	cmd     *exec.Cmd
	ended   chan struct{}

	mu        sync.Mutex
	last      []string // lines of the launcher
	snapshots int      // complete ones, all exact: else the launcher ends
	back      map[string]int
}

func newTrial(t *testing.T, branches int) *trial {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: finds processes in /proc")
	}
	dir := t.TempDir()
	b := &trial{t: t, dir: dir, scratch: filepath.Join(dir, "scratch"), back: map[string]int{}}
	if err := os.Mkdir(b.scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"launcher": filepath.Join(Programs(t), "launcher"), "controller": filepath.Join(Programs(t), "controller"), "branch": self,
	} {
		if os.Link(path, filepath.Join(dir, name)) != nil { // another file system
			if out, err := exec.Command("cp", path, filepath.Join(dir, name)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	var roster strings.Builder
	for port := 10000 + os.Getpid()%8000 + int(trials.Add(1)%10)*10; len(b.ports) < branches; port += 100 {
		port = FreePort(t, port)
		b.ports = append(b.ports, port)
		fmt.Fprintf(&roster, "branch%d 127.0.0.1 %d\n", len(b.ports), port)
	}
	if err := os.WriteFile(filepath.Join(dir, "branches.txt"), []byte(roster.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *trial) name(i int) string { return fmt.Sprintf("branch%d", i+1) }

func (b *trial) dataDir() string {
	return filepath.Join(b.dir, "data", fmt.Sprintf("branches.txt-%d", trialTotal))
}

// start runs the launcher at full load, until the first snapshot.
func (b *trial) start(args ...string) {
	b.t.Helper()
	b.launch(args...)
	b.wait("the first snapshot", func() bool { return b.snapshots > 0 })
}

func (b *trial) launch(args ...string) {
	b.t.Helper()
	args = append([]string{
		strconv.Itoa(trialTotal), "branches.txt", "--interval", "0", "--link-delay", "0", "--amount", "1-3",
		"--snapshot-interval", "50ms",
	}, args...)
	b.cmd = exec.Command(filepath.Join(b.dir, "launcher"), args...)
	b.cmd.Dir = b.dir
	b.cmd.Env = append(os.Environ(), trialEnv+"="+b.scratch)
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	b.ended = ended
	go func() {
		b.read(bufio.NewScanner(stderr))
		_ = b.cmd.Wait() // its exit code is looked at in stop
		close(ended)
	}()
	b.t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // when the test failed
		<-ended
		for deadline := time.Now().Add(time.Minute); len(b.pids("")) > 0 && time.Now().Before(deadline); {
			for _, pid := range b.pids("") {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// read follows what the launcher says.
func (b *trial) read(lines *bufio.Scanner) {
	snapshot := regexp.MustCompile(fmt.Sprintf(`^snapshot \d+ .* = %d ✓`, trialTotal))
	isBack := regexp.MustCompile(`^(branch\d+) is back after`)
	for lines.Scan() {
		b.mu.Lock()
		if b.last = append(b.last, lines.Text()); len(b.last) > 300 {
			b.last = b.last[1:]
		}
		if snapshot.MatchString(lines.Text()) {
			b.snapshots++
		}
		if m := isBack.FindStringSubmatch(lines.Text()); m != nil {
			b.back[m[1]]++
		}
		b.mu.Unlock()
	}
}

// wait for a condition on what the launcher said.
func (b *trial) wait(what string, done func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		b.mu.Lock()
		ok, said := done(), strings.Join(b.last, "\n")
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-b.ended:
			b.t.Fatalf("waiting for %s: the launcher ended: %v\n%s", what, b.cmd.ProcessState, said)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waiting for %s:\n%s", what, said)
		}
	}
}

// said waits for a line of the launcher.
func (b *trial) said(pattern string) (line string) {
	b.t.Helper()
	b.wait(pattern, func() bool {
		i := slices.IndexFunc(b.last, regexp.MustCompile(pattern).MatchString)
		if i >= 0 {
			line = b.last[i]
		}
		return i >= 0
	})
	return line
}

// forget what the launcher said so far.
func (b *trial) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = nil
}

func (b *trial) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshots
}

// another waits for a snapshot that is complete from now on.
func (b *trial) another() {
	b.t.Helper()
	n := b.count()
	b.wait("another snapshot", func() bool { return b.snapshots > n })
}

// isBack waits until branch i is back after what do does.
func (b *trial) isBack(i int, do func()) {
	b.t.Helper()
	b.mu.Lock()
	n := b.back[b.name(i)]
	b.mu.Unlock()
	do()
	b.wait(b.name(i)+" to be back", func() bool { return b.back[b.name(i)] > n })
}

// pids of the processes of a branch, or of all.
func (b *trial) pids(name string) (pids []int) {
	if name != "" {
		name += "\x00"
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		content, _ := os.ReadFile(f)
		if bytes.HasPrefix(content, []byte(filepath.Join(b.dir, "branch")+"\x00"+name)) {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill ends a branch as kill -9 does, and tells whether there was one to be ended.
func (b *trial) kill(i int) bool {
	for _, pid := range b.pids(b.name(i)) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			return true
		}
	}
	return false
}

// attached is a controller's connection to a branch.
type attached struct {
	nc net.Conn
	r  *wire.Reader
}

func (a *attached) ask(m *bankpb.BranchMessage) (*bankpb.BranchMessage, error) {
	if err := a.nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := a.nc.Write(wire.Append(nil, m)); err != nil {
		return nil, err
	}
	return a.r.NextMessage()
}

// attach proves the key of the bank to branch i.
func (b *trial) attach(i int) *attached {
	b.t.Helper()
	var a *attached
	b.wait(b.name(i)+" to answer", func() (ok bool) { // it may be on its way back
		var err error
		a, err = b.dial(i)
		return err == nil
	})
	b.t.Cleanup(func() { _ = a.nc.Close() })
	return a
}

func (b *trial) dial(i int) (*attached, error) {
	var plan struct {
		Key string `json:"key"`
	}
	content, err := os.ReadFile(filepath.Join(b.dataDir(), "bank.json"))
	if err == nil {
		err = json.Unmarshal(content, &plan)
	}
	if err != nil {
		return nil, err
	}
	key, _ := hex.DecodeString(plan.Key)
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.ports[i]))
	if err != nil {
		return nil, err
	}
	a := &attached{nc, wire.NewReader(nc, wire.MaxFrame)}
	nonce := link.Challenge()
	m, err := a.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{
		Attach: &bankpb.Attach{Version: link.Version, Nonce: nonce},
	}})
	if err == nil {
		c := m.GetChallenge()
		_, err = a.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Prove{
			Prove: &bankpb.Prove{Mac: link.ControllerMAC(key, nonce, c.GetNonce(), c.GetBankId(), b.name(i))},
		}})
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return a, nil
}

func statusRequest(s *bankpb.Settings) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{Settings: s}}}
}

// drain stops all transfers, waits until the outboxes are empty, and sums the balances alone.
func (b *trial) drain() {
	b.t.Helper()
	stopped := true
	var all []*attached
	status := func(a *attached) *bankpb.Status {
		m, err := a.ask(statusRequest(&bankpb.Settings{Stopped: &stopped}))
		if err != nil {
			b.t.Fatal(err)
		}
		return m.GetStatus_()
	}
	for i := range b.ports {
		all = append(all, b.attach(i))
		status(all[i])
	}
	var sum uint64
	for i, a := range all {
		b.wait(b.name(i)+" to be drained", func() bool {
			s := status(a)
			return s.GetReady() && s.GetSnapshotsInProgress() == 0 &&
				!slices.ContainsFunc(s.GetLinks(), func(l *bankpb.LinkStatus) bool { return l.GetUnacknowledged() > 0 })
		})
	}
	for _, a := range all {
		sum += status(a).GetBalance()
	}
	if sum != trialTotal {
		b.t.Errorf("drained balances are %d, the total is %d", sum, trialTotal)
	}
}

// stop ends the bank in order and checks the names of all transfers. It tells how many there were.
func (b *trial) stop() int {
	b.t.Helper()
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		b.t.Fatal(err)
	}
	<-b.ended
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		b.t.Errorf("the launcher ended with %d:\n%s", code, strings.Join(b.last, "\n"))
	}
	n, err := checkNames(b.scratch, len(b.ports))
	if err != nil {
		b.t.Error(err)
	}
	if n == 0 {
		b.t.Error("nothing was transferred")
	}
	b.t.Logf("%d transfers, each sent once and received once, in order; %d snapshots, all exact", n, b.snapshots)
	return n
}
