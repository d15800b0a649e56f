package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/controller"
	"cutbank/internal/roster"
	"cutbank/internal/supervise"
)

// bank is a real one: branch processes under a supervisor, and a controller in this process. It is
// what ./launcher is, without its command line.
type bank struct {
	names      []string
	controller *controller.Controller
	supervisor *supervise.Supervisor
	opened     time.Duration // from the first start to all links up
	dir        string
	stop       func() error

	mu     sync.Mutex
	events []childEvent
}

type childEvent struct {
	supervise.Event
	at time.Time
}

// bankTotal is more than any window can have on its way.
const bankTotal = 1 << 50

// openBank starts n branches with these arguments besides and opens a bank that rests.
func (m *machine) openBank(ctx context.Context, n int, args ...string) (*bank, error) {
	dir, err := os.MkdirTemp(m.dir, fmt.Sprintf("bank%d-", n))
	if err != nil {
		return nil, err
	}
	b := &bank{dir: dir}
	r, err := b.roster(n)
	if err != nil {
		return nil, err
	}
	b.names = r.Names()
	interval, amount, stopped := time.Duration(0), "1", true
	ready, failed := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	b.controller, err = controller.New(controller.Config{
		Roster: r, Total: bankTotal, DataDir: dir, Wait: 5 * time.Minute, SnapshotInterval: -1,
		Settings: controller.Settings{Interval: &interval, Amount: &amount, Stopped: &stopped},
		OnEvent: func(e controller.Event) {
			if _, ok := e.(controller.Ready); ok {
				once.Do(func() { close(ready) })
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if err := b.supervise(m, r, args); err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	branches, stopBranches := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { b.supervisor.Run(branches) })
	wg.Go(func() {
		defer stopBranches()
		failed <- b.controller.Run(ctx)
	})
	b.stop = sync.OnceValue(func() error {
		cancel()
		wg.Wait()
		return errors.Join(<-failed, os.RemoveAll(dir))
	})
	select {
	case <-ready:
		b.opened = time.Since(began)
		return b, nil
	case err := <-failed:
		failed <- nil
		return nil, errors.Join(fmt.Errorf("a bank of %d did not open", n), ctx.Err(), err, b.stop())
	}
}

// roster of free ports below those that the system gives to dialling ends.
func (b *bank) roster(n int) (roster.Roster, error) {
	var lines strings.Builder
	port := 6100 + os.Getpid()%700
	for i := range n {
		for ; ; port++ {
			if l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
				_ = l.Close()
				break
			}
		}
		fmt.Fprintf(&lines, "branch%d 127.0.0.1 %d\n", i+1, port)
		port++
	}
	path := filepath.Join(b.dir, "branches.txt")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		return roster.Roster{}, err
	}
	return roster.Load(path)
}

func (b *bank) supervise(m *machine, r roster.Roster, args []string) (err error) {
	sockets := filepath.Join(m.sockets, filepath.Base(b.dir))
	if err := os.Mkdir(sockets, 0o700); err != nil {
		return err
	}
	children := make([]supervise.Child, 0, len(r.Branches))
	for _, br := range r.Branches {
		all := append([]string{br.Name, strconv.Itoa(int(br.Port)), "--data-dir", b.dir, "--interval", "0", "--amount", "1"}, args...)
		for i := range all {
			all[i] = strings.ReplaceAll(all[i], "{name}", br.Name)
		}
		children = append(children, supervise.Child{
			Name: br.Name, Path: m.branch, Args: all, Log: filepath.Join(b.dir, br.Name, "branch.log"),
		})
	}
	b.supervisor, err = supervise.New(supervise.Config{
		Children: children, Sockets: sockets, Logger: hclog.NewNullLogger(), Start: 5 * time.Minute,
		OnEvent: func(e supervise.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, childEvent{e, time.Now()})
		},
	})
	return err
}

// pay lets all branches pay, or stops them and waits until nothing is on its way.
func (b *bank) pay(ctx context.Context, on bool) error {
	stopped := !on
	if err := b.controller.SetSettings(controller.Settings{Stopped: &stopped}); err != nil {
		return err
	}
	if on {
		return nil
	}
	_, err := b.progress(ctx, func(p progress) bool { return p.waiting == 0 })
	return err
}

// progress of all branches, each at the moment of its own status.
type progress struct {
	acked   []uint64 // transfers
	at      []time.Time
	waiting uint64 // items that are not acknowledged
	links   int    // ends that are up
}

// progress waits for statuses that are all newer than this call, and good.
func (b *bank) progress(ctx context.Context, good func(progress) bool) (progress, error) {
	asked := time.Now()
	for {
		var p progress
		fresh := true
		for _, st := range b.controller.Status() {
			fresh = fresh && st.Connected && st.At.After(asked)
			var sent uint64
			for _, l := range st.Status.GetLinks() {
				sent += l.GetSentCount() - min(l.GetUnacknowledged(), l.GetSentCount())
				p.waiting += l.GetUnacknowledged()
				if l.GetUp() {
					p.links++
				}
			}
			p.acked, p.at = append(p.acked, sent), append(p.at, st.At)
		}
		if fresh && good(p) {
			return p, nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return p, err
		}
		if fresh {
			asked = time.Now()
		}
	}
}

func anyProgress(progress) bool { return true }

// throughput over about so long: transfers acknowledged per second, and CPU nanoseconds of all
// branches per transfer.
func (b *bank) throughput(ctx context.Context, span time.Duration) (rate, cpu float64, err error) {
	from, err := b.progress(ctx, anyProgress)
	if err != nil {
		return 0, 0, err
	}
	cpuFrom, began := b.cpu(), time.Now()
	if err := pause(ctx, span); err != nil {
		return 0, 0, err
	}
	cpuRate := (b.cpu() - cpuFrom) / time.Since(began).Seconds()
	to, err := b.progress(ctx, anyProgress)
	if err != nil {
		return 0, 0, err
	}
	for i := range to.acked {
		rate += float64(to.acked[i]-from.acked[i]) / to.at[i].Sub(from.at[i]).Seconds()
	}
	return rate, cpuRate / max(1, rate), nil
}

// cpu time of all branches so far, in nanoseconds.
func (b *bank) cpu() (sum float64) {
	for _, s := range b.supervisor.Status() {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, i := range []int{11, 12} { // utime, stime
			ticks, _ := strconv.ParseFloat(f[i], 64)
			sum += ticks * 1e9 / 100
		}
	}
	return sum
}

// resident memory of each branch, in bytes.
func (b *bank) resident() (all []float64) {
	for _, s := range b.supervisor.Status() {
		status, _ := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/status")
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				all = append(all, kb*1024)
			}
		}
	}
	return all
}
