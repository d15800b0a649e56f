package branch_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutbank/internal/branch"
	"cutbank/internal/controller"
	"cutbank/internal/identity"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// attack is what a stranger does with a connection to a branch of that name. It has a second.
type attack func(nc net.Conn, name string)

// attacks of every kind.
func attacks(recorded []byte, foreign *tls.Certificate) map[string]attack {
	write := func(b []byte) attack { return func(nc net.Conn, _ string) { _, _ = nc.Write(b) } }
	say := func(nc net.Conn, m *bankpb.BranchMessage) { _, _ = nc.Write(wire.Append(nil, m)) }
	framed := func(body []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(body))), body...) }
	field := func(number uint64, body []byte) []byte {
		return append(binary.AppendUvarint(nil, number<<3|2), framed(body)...)
	}
	all := map[string]attack{
		"silence":       func(net.Conn, string) {},
		"half-open":     func(nc net.Conn, _ string) { _ = nc.(*net.TCPConn).CloseWrite() },
		"reset":         func(nc net.Conn, _ string) { _ = nc.(*net.TCPConn).SetLinger(0) },
		"giant length":  write(append(binary.AppendUvarint(nil, 1<<40), make([]byte, 1000)...)),
		"deep nesting":  write(framed(field(2, bytes.Repeat([]byte{0x1b}, 60_000)))),
		"many elements": write(framed(field(1, bytes.Repeat([]byte{2<<3 | 2, 0}, 2_000_000)))),
		"large, half":   write(append(append(binary.AppendUvarint(nil, wire.MaxRosterFrame), 10), make([]byte, 300_000)...)),
		"garbage": func(nc net.Conn, _ string) {
			b := make([]byte, 1+rand.N(2000))
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
			_, _ = nc.Write(b)
		},
		"slow bytes": func(nc net.Conn, name string) {
			for _, b := range wire.Append(nil, hello("branch4", name))[:8] {
				_, _ = nc.Write([]byte{b})
				time.Sleep(20 * time.Millisecond)
			}
		},
		"replay": write(recorded),
		"flood, unread": func(nc net.Conn, _ string) {
			_, _ = nc.Write(bytes.Repeat(wire.Append(nil, statusRequest()), 3000))
		},
		"forged proof": func(nc net.Conn, name string) {
			m := hello("branch4", name)
			m.GetHello().BankId = bankID("branch1", "branch2", "branch3", "branch4")
			say(nc, m)
			_, _ = wire.NewReader(nc, wire.MaxFrame).Next()
			say(nc, hostile()["proof"])
			_, _ = nc.Write(bytes.Repeat(wire.Append(nil, hostile()["transfer"]), 50))
		},
		"forged prove": func(nc net.Conn, _ string) {
			say(nc, hostile()["attach"])
			_, _ = wire.NewReader(nc, wire.MaxFrame).Next()
			say(nc, hostile()["prove"])
			say(nc, hostile()["init_snapshot"])
		},
		"another authority": func(nc net.Conn, _ string) {
			conn := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*foreign}})
			if conn.Handshake() == nil {
				say(conn, hostile()["init_snapshot"])
			}
		},
	}
	for name, m := range hostile() {
		all[name] = write(wire.Append(nil, m))
	}
	return all
}

// besieged is a bank of four that pays, with a controller that audits it.
type besieged struct {
	t      *testing.T
	roster roster.Roster
	*controller.Controller
	exact, wrong atomic.Int64
	heap         atomic.Uint64 // the most that was in use
}

func besiege(t *testing.T, encrypted bool) (b *besieged, recorded []byte, foreign tls.Certificate) {
	t.Helper()
	b = &besieged{t: t, roster: roster.Roster{File: "branches.txt"}}
	names, certs, other := []string{"branch1", "branch2", "branch3", "branch4"}, t.TempDir(), t.TempDir()
	for _, dir := range []string{certs, other} {
		if _, err := identity.Make(dir, names, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if foreign, err = tls.LoadX509KeyPair(filepath.Join(other, "controller.pem"), filepath.Join(other, "controller.pem")); err != nil {
		t.Fatal(err)
	}
	cfg := controller.Config{Total: 1_000_000, DataDir: t.TempDir(), SnapshotInterval: 100 * time.Millisecond}
	for i, name := range names {
		address, _ := startBranch(t, name, func(c *branch.Config) {
			c.Interval, c.Amount = 5*time.Millisecond, roster.Amount{Low: 1, High: 9}
			if encrypted {
				c.Certificates = load(t, certs, identity.Branch(name))
			}
		})
		_, port, _ := net.SplitHostPort(address)
		number, _ := strconv.ParseUint(port, 10, 16)
		b.roster.Branches = append(b.roster.Branches, roster.Branch{Name: name, Host: "127.0.0.1", Port: uint16(number), Line: i + 1})
	}
	if encrypted {
		cfg.Certificates = load(t, certs, identity.Controller)
	}
	ready := make(chan struct{})
	cfg.Roster = b.roster
	cfg.OnEvent = func(e controller.Event) {
		switch e := e.(type) {
		case controller.Ready:
			close(ready)
		case controller.SnapshotComplete:
			if e.Record.Status == controller.Consistent {
				b.exact.Add(1)
			} else {
				b.wrong.Add(1)
			}
		}
	}
	if b.Controller, err = controller.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-ready
	return b, b.session(cfg.DataDir, cfg.Certificates), foreign
}

// session is what a real controller of this bank has said to branch1, up to the proof.
func (b *besieged) session(dir string, certificates *identity.Certificates) []byte {
	b.t.Helper()
	plan, err := controller.ReadPlan(dir)
	if err != nil || plan == nil {
		b.t.Fatal(err)
	}
	key, _ := hex.DecodeString(plan.Key)
	bank, _ := hex.DecodeString(plan.BankID)
	var session []byte
	eventually(b.t, func() (any, bool) {
		var address string
		recorded := record(b.t, b.roster.Branches[0].Addr(), &address)
		nc, err := certificates.Dial(b.t.Context(), address, "branch1")
		if err != nil {
			return err, false
		}
		defer func() { _ = nc.Close() }()
		c, nonce := &plainClient{b.t, nc, wire.NewReader(nc, wire.MaxFrame)}, make([]byte, 16)
		m, err := c.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: &bankpb.Attach{Version: link.Version, Nonce: nonce}}})
		if err == nil {
			mac := link.ControllerMAC(key, nonce, m.GetChallenge().GetNonce(), bank, "branch1")
			m, err = c.ask(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Prove{Prove: &bankpb.Prove{Mac: mac}}})
		}
		if err != nil || m.GetStatus_() == nil {
			return fmt.Sprint(m, err), false
		}
		_ = nc.Close()
		session = <-recorded
		return nil, true
	})
	return session
}

// received counts the transfers that have arrived.
func (b *besieged) received() (n uint64) {
	for _, s := range b.Status() {
		for _, l := range s.Status.GetLinks() {
			n += l.GetReceivedCount()
		}
	}
	return n
}

// rate runs f and is the transfers per second meanwhile, as the branches' statuses tell.
func (b *besieged) rate(f func()) float64 {
	before, began := b.received(), time.Now()
	f()
	time.Sleep(600 * time.Millisecond) // a status comes every half second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.heap.Store(max(b.heap.Load(), m.HeapInuse))
	return float64(b.received()-before) / time.Since(began).Seconds()
}

// TestHostile attacks a bank that pays, in rounds beside quiet ones: no state changes, every snapshot is
// exact, memory is bounded and no goroutine left. Throughput is compared only when CUTBANK_TEST_HOSTILE
// gives the number of connections: it depends on how busy the machine is.
func TestHostile(t *testing.T) {
	target, rounds, least := 200, 1, 0.0 // connections in all, rounds, throughput of the undisturbed
	if n, err := strconv.Atoi(os.Getenv("CUTBANK_TEST_HOSTILE")); err == nil {
		target, rounds, least = n, 4, 0.8
	}
	for name, encrypted := range map[string]bool{"with a key": false, "with certificates": true} {
		t.Run(name, func(t *testing.T) {
			b, recorded, foreign := besiege(t, encrypted)
			all := attacks(recorded, &foreign)
			var kinds []string
			for k := range all {
				kinds = append(kinds, k)
			}
			slices.Sort(kinds)
			b.rate(func() {}) // until things are as they are
			goroutines, quietHeap := runtime.NumGoroutine(), b.heap.Load()
			made, next := map[string]int{}, 0
			var ratios []float64
			for round := 0; round < rounds || round < 4*rounds && median(ratios) < least; round++ {
				quiet := b.rate(func() { time.Sleep(500 * time.Millisecond) })
				ratios = append(ratios, b.rate(func() { b.assault(all, kinds, &next, target/2/rounds, made) })/quiet)
			}
			for deadline := time.Now().Add(time.Minute); b.exact.Load() == 0 && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
			total := 0
			for _, k := range kinds {
				total += made[k]
				if made[k] == 0 {
					t.Errorf("no attack by %s", k)
				}
			}
			t.Logf("%d connections of %d kinds, throughput %.0f %% of undisturbed, %d snapshots exact, heap %d MiB above quiet",
				total, len(kinds), 100*median(ratios), b.exact.Load(), (b.heap.Load()-min(quietHeap, b.heap.Load()))>>20)
			if total < target/2 || b.exact.Load() == 0 || b.wrong.Load() > 0 {
				t.Errorf("%d connections, %d snapshots exact, %d wrong", total, b.exact.Load(), b.wrong.Load())
			}
			if median(ratios) < least {
				t.Errorf("throughput of the undisturbed: %.2f", ratios)
			}
			if b.heap.Load() > quietHeap+(192<<20) {
				t.Errorf("heap of %d MiB, %d when it was quiet", b.heap.Load()>>20, quietHeap>>20)
			}
			b.drained()
			for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					buf := make([]byte, 1<<20)
					t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), goroutines, buf[:runtime.Stack(buf, true)])
				}
			}
		})
	}
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Clone(list)
	sort.Float64s(sorted)
	return sorted[len(sorted)/2]
}

// assault makes n connections, at most 200 in a second, each with the next kind of attack on the next
// branch.
func (b *besieged) assault(all map[string]attack, kinds []string, next *int, n int, made map[string]int) {
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		target := b.roster.Branches[*next%len(b.roster.Branches)]
		k := kinds[*next%len(kinds)]
		*next++
		nc, err := net.Dial("tcp", target.Addr())
		if err != nil {
			b.t.Error(err)
			return
		}
		made[k]++
		running.Go(func() {
			defer func() { _ = nc.Close() }()
			_ = nc.SetDeadline(time.Now().Add(time.Second))
			all[k](nc, target.Name)
			if k != "flood, unread" && k != "reset" {
				_, _ = io.Copy(io.Discard, nc)
			}
		})
	}
}

// drained stops the transfers and checks what is left: the total in balances alone, and nothing that the
// attackers asked for.
func (b *besieged) drained() {
	b.t.Helper()
	stopped := true
	if err := b.SetSettings(controller.Settings{Stopped: &stopped}); err != nil {
		b.t.Fatal(err)
	}
	var said string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var sum, sent, received uint64
		said = ""
		for _, s := range b.Status() {
			st := s.Status
			sum += st.GetBalance()
			for _, l := range st.GetLinks() {
				sent, received = sent+l.GetSentCount(), received+l.GetReceivedCount()
				if l.GetRefused() != "" {
					b.t.Errorf("%s refused %s: %s", s.Name, l.GetPeer(), l.GetRefused())
				}
			}
			if st.GetTotal() != 1_000_000 || st.GetIncarnation() != 1 || len(st.GetRoster()) != 4 {
				b.t.Errorf("%s is another: %v", s.Name, st)
			}
			said += fmt.Sprintf("%s has %d; ", s.Name, st.GetBalance())
		}
		if sum == 1_000_000 && sent == received {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("drained to %d of 1000000, %d of %d transfers received: %s", sum, received, sent, said)
		}
	}
}
