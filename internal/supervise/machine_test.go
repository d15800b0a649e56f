package supervise

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cutbank/internal/lifecycle"
)

// script runs a machine without processes and clock: time is what the test says.
type script struct {
	t   *testing.T
	m   machine
	now time.Time
	log []string // effects and events since the last look
}

func newScript(t *testing.T, set func(*machine)) *script {
	t.Helper()
	s := &script{t: t, now: time.Unix(1000, 0), m: machine{
		name: "a", of: 1, start: time.Minute, stop: 5 * time.Second,
		jitter: func(d time.Duration) time.Duration { return d }, status: Status{Causes: map[Cause]int{}},
	}}
	if set != nil {
		set(&s.m)
	}
	s.m.now = s.now
	s.m.begin()
	s.note(s.m.effects, s.m.events)
	return s
}

func (s *script) note(effects []effect, events []Event) {
	for _, e := range effects {
		s.log = append(s.log, []string{"start", "check", "dial", "TERM", "KILL", "STOP", "CONT", "save"}[e.do])
	}
	for _, e := range events {
		text := string(e.Kind)
		if e.Kind == EventExited {
			text += " " + string(e.Cause)
		}
		if e.Delay > 0 {
			text += " " + e.Delay.String()
		}
		s.log = append(s.log, "<"+text+">")
	}
}

func (s *script) in(in any) error {
	s.t.Helper()
	effects, events, err := s.m.step(in, s.now)
	s.note(effects, events)
	return err
}

// pass lets time go by; the machine gets its ticks on the dot, and each check the given answer.
func (s *script) pass(d time.Duration, a lifecycle.Answer) {
	s.t.Helper()
	for end := s.now.Add(d); ; {
		next := s.m.next()
		if next.IsZero() || next.After(end) {
			s.now = end
			return
		}
		s.now = next
		_ = s.in(tick{})
		if s.m.checking {
			s.log = s.log[:len(s.log)-1] // the check
			_ = s.in(checked{s.m.epoch, a})
		}
	}
}

// want compares what was done and told since the last look.
func (s *script) want(state State, log string) {
	s.t.Helper()
	if got := strings.Join(s.log, " "); got != log || s.m.status.State != state {
		s.t.Fatalf("at %s: %s, %q; want %s, %q", s.now.Sub(time.Unix(1000, 0)), s.m.status.State, got, state, log)
	}
	s.log = nil
}

var (
	mute  = lifecycle.Answer{}
	alive = lifecycle.Answer{Alive: true, Waits: "links to b"}
	fine  = lifecycle.Answer{Alive: true, Ready: true}
)

// up brings the process to ready.
func (s *script) up(pid int) {
	s.t.Helper()
	if err := s.in(launched{run: s.m.run, pid: pid}); err != nil {
		s.t.Fatal(err)
	}
	s.pass(20*time.Millisecond, fine)
	if s.m.status.State != Ready || s.m.status.PID != pid {
		s.t.Fatalf("not up: %+v", s.m.status)
	}
	s.log = nil
}

func (s *script) die(x exit) { s.t.Helper(); _ = s.in(exited{s.m.run, x}) }

func TestLifeOfAChild(t *testing.T) {
	s := newScript(t, nil)
	s.want(Starting, "start")
	_ = s.in(launched{run: s.m.run, pid: 7})
	s.want(Starting, "<started>")
	s.pass(time.Second, mute) // recovery may take long
	s.want(Starting, "")
	s.pass(20*time.Millisecond, alive)
	s.want(Running, "<healthy>")
	s.pass(20*time.Millisecond, fine)
	s.want(Ready, "<ready>")
	s.pass(250*time.Millisecond, alive)
	s.want(Running, "<unready>")
	s.pass(time.Hour, fine)
	s.want(Ready, "<ready>")
	_ = s.in(request{verbStop})
	s.want(Stopping, "TERM <stopping>")
	s.die(exit{words: "ended in order", cause: InOrder})
	s.want(Stopped, "<exited in order> <stopped>")
}

// TestHang: three misses in a row, within 2 s, and not two; a miss counts only when our own timer was
// punctual, and our own requests were answered meanwhile.
func TestHang(t *testing.T) {
	s := newScript(t, nil)
	s.up(7)
	s.pass(500*time.Millisecond, mute)
	s.want(Suspect, "<suspect>")
	s.pass(250*time.Millisecond, fine)
	s.want(Ready, "<ready>")
	began := s.now
	for s.m.asked == "" {
		s.pass(s.m.next().Sub(s.now), mute)
	}
	if took := s.now.Sub(began); took > time.Second {
		t.Errorf("noticed after %s", took)
	}
	s.want(Suspect, "<suspect> KILL <hung>")
	s.die(exit{words: "signal killed", cause: Killed})
	s.want(Backoff, "<exited hung> <delayed>")

	s = newScript(t, nil)
	s.up(7)
	s.m.of = 256 // who share the cores
	s.pass(2*time.Second, mute)
	s.want(Suspect, "<suspect>")
	s.pass(2*time.Second, mute)
	s.want(Suspect, "KILL <hung>")

	s = newScript(t, nil)
	s.up(7)
	for range 10 {
		s.now = s.m.next().Add(maxLate + 1) // the launcher's timer was late
		_ = s.in(tick{})
		_ = s.in(checked{s.m.epoch, mute})
		s.now = s.m.next()
		_ = s.in(tick{})
		s.now = s.now.Add(checkEvery + maxLate + 1) // or it got to the answer late
		_ = s.in(checked{s.m.epoch, mute})
	}
	if s.m.status.State != Ready {
		t.Errorf("a late launcher takes its child for %s", s.m.status.State)
	}
}

// TestEpoch: an answer to what was asked before a request says nothing any more.
func TestEpoch(t *testing.T) {
	s := newScript(t, nil)
	s.up(7)
	s.now = s.m.next()
	_ = s.in(tick{})
	before := s.m.epoch
	_ = s.in(request{verbPause})
	s.want(Paused, "check save STOP <paused>")
	_ = s.in(checked{before, mute})
	s.pass(time.Hour, mute)
	s.want(Paused, "") // and is not taken for a hang
	if err := s.in(request{verbPause}); err == nil || !strings.Contains(err.Error(), "it is paused") {
		t.Errorf("twice: %v", err)
	}
	_ = s.in(request{verbResume})
	s.want(Running, "save CONT <resumed>")
	s.pass(20*time.Millisecond, fine)
	s.want(Ready, "<ready>")

	run := s.m.run
	s.die(exit{cause: Killed})
	s.pass(0, fine)
	s.want(Starting, "<exited killed> <delayed> start")
	_ = s.in(exited{run, exit{cause: Killed}}) // the old process, once more
	_ = s.in(launched{run: run, pid: 7})
	s.want(Starting, "")
}

// TestBudget: five exits in a row before ready; then failed, tried each minute, reset by hand at once.
func TestBudget(t *testing.T) {
	s := newScript(t, nil)
	why := exit{words: "exit code 2: port 9001 is in use by pid 812 (nginx)", cause: Exited}
	var delays []string
	for range earlyBudget {
		_ = s.in(launched{run: s.m.run, pid: 7})
		s.log = nil
		s.die(why)
		delays = append(delays, s.log[1])
		s.pass(s.m.next().Sub(s.now), mute)
	}
	if want := []string{"<delayed>", "<delayed 100ms>", "<delayed 200ms>", "<delayed 400ms>", "<failed 1m0s>"}; !slices.Equal(delays, want) {
		t.Errorf("%v, want %v", delays, want)
	}
	_ = s.in(launched{run: s.m.run, pid: 8})
	s.log = nil
	s.die(why)
	s.want(Failed, "<exited exited> <failed 1m0s>")
	if !s.m.status.Failed || s.m.status.LastExit != why.words {
		t.Errorf("%+v", s.m.status)
	}
	_ = s.in(request{verbReset})
	s.want(Starting, "start")
	s.up(9)
	if s.m.status.Failed {
		t.Error("still failed when ready")
	}
	s.die(why)
	s.want(Backoff, "<exited exited> <delayed>")

	for range 20 { // once ready, it is never failed
		s.pass(s.m.next().Sub(s.now), mute)
		s.up(10)
		s.die(why)
	}
	s.want(Backoff, "<exited exited> <delayed 10s>")
	s.pass(10*time.Second, mute)
	s.up(11)
	s.pass(forgetAfter+time.Second, fine)
	s.die(why)
	s.want(Backoff, "<exited exited> <delayed>")
}

// TestKilledFromOutside uses up nothing, before ready too.
func TestKilledFromOutside(t *testing.T) {
	s := newScript(t, nil)
	for range 3 * earlyBudget {
		_ = s.in(launched{run: s.m.run, pid: 7})
		s.die(exit{cause: Killed})
		s.pass(s.m.next().Sub(s.now), mute)
	}
	if s.m.early != 0 || s.m.status.State != Starting {
		t.Errorf("%+v, early %d", s.m.status, s.m.early)
	}
}

func TestStartDeadline(t *testing.T) {
	s := newScript(t, nil)
	_ = s.in(launched{run: s.m.run, pid: 7})
	s.pass(20*time.Millisecond, lifecycle.Answer{Waits: "its journal to be read"})
	s.pass(59*time.Second, lifecycle.Answer{Waits: "its journal to be read"})
	s.want(Starting, "start <started>")
	s.pass(time.Second, mute)
	s.want(Starting, "KILL <hung>")
	s.die(exit{words: "signal killed", cause: Killed})
	if want := "signal killed: no progress within 1m0s: its journal to be read"; s.m.status.LastExit != want || s.m.early != 1 {
		t.Errorf("%q, early %d", s.m.status.LastExit, s.m.early)
	}
}

// TestLongReplay: a process that gets on with its start may take its time, and is not taken for one that hangs.
func TestLongReplay(t *testing.T) {
	s := newScript(t, nil)
	s.up(7)
	s.die(exit{cause: Killed})
	s.pass(0, mute)
	_ = s.in(launched{run: s.m.run, pid: 8})
	s.log = nil
	replay := func(d time.Duration) {
		for end := s.now.Add(d); s.now.Before(end); {
			s.pass(time.Second, lifecycle.Answer{Waits: "its journal to be replayed, as of " + s.now.String()})
			s.pass(time.Second, mute) // so busy that it does not always answer
		}
	}
	replay(8 * time.Second)
	s.want(Starting, "<slow> <slow>")
	replay(time.Hour)
	if s.m.status.State != Starting || s.m.status.PID != 8 || slices.Contains(s.log, "KILL") {
		t.Errorf("%+v", s.m.status)
	}
	s.log = nil
	_ = s.in(request{verbPause})
	s.pass(time.Hour, mute)
	_ = s.in(request{verbResume})
	s.pass(10*time.Second, mute)
	if s.m.status.State != Starting || slices.Contains(s.log, "KILL") {
		t.Errorf("after a pause: %+v, %v", s.m.status, s.log)
	}
	s.pass(time.Second, fine)
	if s.m.status.State != Ready || s.m.status.PID != 8 {
		t.Errorf("at the end: %+v", s.m.status)
	}
}

func TestStopNamesWhoIsLate(t *testing.T) {
	s := newScript(t, nil)
	s.up(7)
	_ = s.in(request{verbStop})
	s.pass(5*time.Second, mute)
	s.want(Stopping, "TERM <stopping> KILL <late>")
	s.die(exit{cause: Killed})
	s.want(Stopped, "<exited killed> <stopped>")

	s = newScript(t, nil) // before its pid is known
	_ = s.in(request{verbStop})
	s.want(Starting, "start")
	_ = s.in(launched{run: s.m.run, pid: 7})
	s.want(Stopping, "TERM <started> <stopping>")
	_ = s.in(request{verbAbort})
	s.want(Stopping, "KILL")

	s = newScript(t, nil) // while it waits
	_ = s.in(launched{run: s.m.run, pid: 7})
	s.die(exit{cause: Exited})
	s.log = nil
	_ = s.in(request{verbStop})
	s.want(Stopped, "<stopped>")
	s.pass(time.Hour, mute)
	s.want(Stopped, "")
}

func TestRestartKillHang(t *testing.T) {
	s := newScript(t, nil)
	s.up(7)
	_ = s.in(request{verbRestart})
	s.want(Stopping, "TERM <stopping>")
	s.die(exit{words: "ended in order", cause: InOrder})
	s.want(Starting, "start <exited asked>")
	s.up(8)
	_ = s.in(request{verbKill})
	s.want(Ready, "KILL")
	s.die(exit{cause: Killed})
	s.want(Backoff, "<exited asked> <delayed>")
	if err := s.in(request{verbKill}); err == nil {
		t.Error("killed without a process")
	}
	s.pass(0, mute)
	s.up(9)
	_ = s.in(request{verbStrike})
	s.die(exit{cause: Killed})
	s.want(Backoff, "KILL <exited killed by chaos> <delayed 100ms>")
	s.pass(s.m.next().Sub(s.now), mute)
	s.up(10)
	_ = s.in(request{verbHang})
	s.want(Ready, "STOP")
	s.pass(time.Second, mute)
	s.want(Suspect, "<suspect> KILL <hung>")
}

// TestPausedIsKept: a new launcher does not take an adopted child that was paused for a hang; a dead one
// is not paused any more.
func TestPausedIsKept(t *testing.T) {
	paused := func(m *machine) { m.pausedWanted = true }
	s := newScript(t, paused)
	_ = s.in(launched{run: s.m.run, pid: 7, adopted: true})
	s.pass(time.Hour, mute)
	s.want(Paused, "start STOP <adopted> <paused>")
	s.die(exit{})
	s.want(Backoff, "save <exited killed> <delayed>")

	s = newScript(t, paused)
	_ = s.in(launched{run: s.m.run, pid: 7})
	s.want(Starting, "start save <started>")
}

// TestAdoptedThatHangs is replaced within SyncLimit, not after the long deadline of a start.
func TestAdoptedThatHangs(t *testing.T) {
	s := newScript(t, nil)
	_ = s.in(launched{run: s.m.run, pid: 7, adopted: true})
	s.pass(lifecycle.SyncLimit, mute)
	s.want(Starting, "start <adopted> KILL <hung>")
}

// TestRemote: what is not ours is watched, never started or killed.
func TestRemote(t *testing.T) {
	s := newScript(t, func(m *machine) { m.remote = true })
	s.want(Away, "dial")
	up := func(up bool) { _ = s.in(dialled{s.m.epoch, up}) }
	up(false)
	up(false)
	s.want(Away, "<remote down>")
	up(true)
	up(true)
	s.want(Remote, "<remote up>")
	s.pass(remoteEvery, mute)
	s.want(Remote, "dial")
	up(false)
	s.want(Away, "<remote down>")
	for _, v := range []verb{verbKill, verbPause, verbRestart, verbReset, verbHang} {
		if s.in(request{v}) == nil {
			t.Errorf("%s of a remote child", v)
		}
	}
	_ = s.in(request{verbStop})
	s.want(Stopped, "<stopped>")
}

// TestHeldElsewhere: a standalone process has the directory. Not a crash; reset takes it over when that has ended.
func TestHeldElsewhere(t *testing.T) {
	for name, input := range map[string]func(*script) any{
		"found before": func(s *script) any { return held{s.m.run, 812} },
		"exit 75":      func(s *script) any { return exited{s.m.run, exit{locked: true, holder: 812, cause: Exited}} },
	} {
		s := newScript(t, nil)
		_ = s.in(input(s))
		_ = s.in(dialled{s.m.epoch, true})
		s.want(Remote, "start dial <remote up>")
		if len(s.m.status.Causes) != 0 || s.m.early != 0 || !strings.Contains(s.m.status.Waits, "pid 812") {
			t.Errorf("%s: %+v", name, s.m.status)
		}
		_ = s.in(dialled{s.m.epoch, false})
		if line := s.m.events[0].String(); !strings.Contains(line, "./launcher reset a") {
			t.Errorf("%s: what to do is not in %q", name, line)
		}
		s.log = nil
		_ = s.in(request{verbReset})
		s.want(Starting, "start")
	}
	s := newScript(t, nil) // of a launcher that is gone: adopted
	_ = s.in(exited{s.m.run, exit{locked: true, holder: 812, adoptable: true}})
	s.want(Starting, "start start")
}

// TestSpread: the first checks of 256 children are spread over the whole period.
func TestSpread(t *testing.T) {
	first := map[time.Duration]int{}
	for i := range 256 {
		s := newScript(t, func(m *machine) { m.index, m.of = i, 256 })
		_ = s.in(launched{run: s.m.run, pid: 7})
		for s.m.status.State != Ready {
			s.pass(s.m.next().Sub(s.now), fine)
		}
		first[s.m.next().Sub(s.now)*16/s.m.period()]++
	}
	if len(first) < 16 {
		t.Errorf("the checks of 256 children fall into %d of 16 parts of the period: %v", len(first), first)
	}
}

// TestEventWords: every kind of event has a line of its own.
func TestEventWords(t *testing.T) {
	seen := map[string]Kind{}
	for _, k := range []Kind{
		EventStarted, EventSlow, EventAdopted, EventHealthy, EventReady, EventUnready, EventSuspect, EventHung, EventStopping, EventLate,
		EventExited, EventDelayed, EventFailed, EventStopped, EventPaused, EventResumed, EventRemoteUp, EventRemoteDown,
	} {
		line := Event{Child: "a", Kind: k, PID: 7, Exit: "why", Delay: time.Second}.String()
		if other, ok := seen[line]; ok || !strings.HasPrefix(line, "a ") {
			t.Errorf("%s and %s: %q", k, other, line)
		}
		seen[line] = k
	}
	if want := "a is ready (pid 7)"; seen[want] != EventReady {
		t.Error(fmt.Sprint(seen))
	}
}
