package lifecycle

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofrs/flock"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const holdVariable = "CUTBANK_TEST_HOLD"

// TestMain holds a directory for a test in another process, until its standard input ends.
func TestMain(m *testing.M) {
	dir := os.Getenv(holdVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := Lock(dir, "lock"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(0)
}

func TestLockHeldElsewhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "branch1")
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdVariable+"="+dir)
	stdin, err := other.StdinPipe()
	stdout, pipeErr := other.StdoutPipe()
	if err := errors.Join(err, pipeErr, other.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = Lock(dir, "lock")
	var held *HeldError
	if !errors.As(err, &held) || held.PID != other.Process.Pid || held.Dir != dir {
		t.Errorf("while another process holds it: %v", err)
	}
	if want := fmt.Sprintf("is in use by pid %d", other.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
	if err := errors.Join(stdin.Close(), other.Wait()); err != nil {
		t.Fatal(err)
	}
	release, err := Lock(dir, "lock") // the file is still there, and holds nothing
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, "lock"); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("twice in a process: %v", err)
	}
	release()
	if release, err = Lock(dir, "lock"); err != nil {
		t.Fatal(err)
	}
	release()
}

// TestLockOfTheDying: a lock whose holder is dead, but for its open files, is waited for, and not for ever.
func TestLockOfTheDying(t *testing.T) {
	for _, ends := range []bool{true, false} {
		dir := t.TempDir()
		dying := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
		if err := dying.Lock(); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			began, until := time.Now(), time.Hour
			if ends {
				until = lastGasp / 2
			}
			closed := time.AfterFunc(until, func() { _ = dying.Close() })
			defer closed.Stop()
			release, err := Lock(dir, "lock")
			if ends && err != nil || !ends && !errors.As(err, new(*HeldError)) || time.Since(began) > lastGasp {
				t.Errorf("its files are closed: %v; %v after %s", ends, err, time.Since(began))
			}
			if err == nil {
				release()
			}
		})
		_ = dying.Close()
	}
}

func TestLockRefusesLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(elsewhere, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(elsewhere, filepath.Join(dir, "lock")), os.Symlink(dir, dir+"-link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ dir, name string }{{dir, "lock"}, {dir + "-link", "other"}} {
		if _, err := Lock(test.dir, test.name); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s in %s: %v", test.name, test.dir, err)
		}
	}
	if content, err := os.ReadFile(elsewhere); err != nil || string(content) != "data" {
		t.Errorf("what the link points to: %q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file behind the link: %v", err)
	}
}

func TestAlive(t *testing.T) {
	const never = -1
	for _, test := range []struct {
		beat, sync time.Duration // ago
		want       string
	}{
		{0, never, ""},
		{StaleAfter, never, ""},
		{StaleAfter + 1, never, "does not beat"},
		{0, StaleAfter + 1, ""},
		{0, SyncLimit, ""},
		{0, SyncLimit + 1, "does not end"},
		{StaleAfter + 1, 0, "does not beat"}, // the loop is not the goroutine that waits for the disk
	} {
		now := int64(time.Hour)
		var h Health
		h.beat.Store(now - int64(test.beat))
		if test.sync != never {
			h.syncing.Store(now - int64(test.sync))
		}
		err := h.aliveAt(now)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("beat %s ago, sync %s: %v, want %q", test.beat, test.sync, err, test.want)
		}
	}
	h := NewHealth()
	h.Syncing(true)
	if h.beat.Load() == 0 || h.syncing.Load() == 0 {
		t.Error("a new Health has not beaten, or its sync does not show")
	}
	h.Syncing(false)
	if h.syncing.Load() != 0 {
		t.Error("a sync that ended shows")
	}
}

// TestStoppedItself: a process that was stopped is asked before its loop had the time to beat. One whose loop
// is stuck says so within the time of a check.
func TestStoppedItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		h.SetReady(true)
		h.Beat()
		ask := func() healthpb.HealthCheckResponse_ServingStatus {
			answer, err := h.interceptLauncher(t.Context(), &healthpb.HealthCheckRequest{}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return answer.(*healthpb.HealthCheckResponse).GetStatus()
		}
		time.Sleep(time.Minute)
		go func() { time.Sleep(150 * time.Millisecond); h.Beat() }()
		if got := ask(); got != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("stopped for a minute, and beats: %s", got)
		}
		time.Sleep(time.Minute)
		asked := time.Now()
		if got := ask(); got != healthpb.HealthCheckResponse_NOT_SERVING || time.Since(asked) > 200*time.Millisecond {
			t.Errorf("stuck: %s after %s", got, time.Since(asked))
		}
	})
}
