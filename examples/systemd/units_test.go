// Package systemd_test checks the units of this directory with systemd's own tools, and the branch's
// side of sd_notify by playing systemd's socket.
package systemd_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mostExposed is what `systemd-analyze security` may say of a unit, in tenths; 10 would be unconfined.
const mostExposed = "20"

func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("CI runs this with systemd-analyze")
	case err != nil:
		t.Skip("there is no systemd-analyze here")
	}
	user, err := os.ReadFile("cutbank.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	dir, bin := t.TempDir(), build(t)
	for file, unit := range map[string]string{
		"cutbank-branch@.service": "cutbank-branch@branch1.service", "cutbank-controller.service": "cutbank-controller.service",
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, of, ok := strings.Cut(string(content), "\nUser="); !ok || !strings.HasPrefix(string(user), "u "+strings.SplitN(of, "\n", 2)[0]+" ") {
			t.Errorf("%s: its user is not that of cutbank.sysusers", file)
		}
		path := filepath.Join(dir, unit)
		// The program has to be there: verify looks for it.
		installed := strings.ReplaceAll(string(content), "/opt/cutbank/bin", bin)
		if err := os.WriteFile(path, []byte(installed), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
		if out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold="+mostExposed, path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// freePort is one that nobody takes meanwhile: below those that the system gives to dialling ends.
func freePort(t *testing.T) string {
	t.Helper()
	for port := 4200 + os.Getpid()%700; port < 6000; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return strconv.Itoa(port)
		}
	}
	t.Fatal("no port is free")
	return ""
}

func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "cutbank/cmd/branch", "cutbank/cmd/controller")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// A real branch feeds systemd's watchdog by its loop: no longer when it is stopped, again when it goes on.
func TestWatchdog(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "notify")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	cmd := exec.Command(filepath.Join(build(t), "branch"), "branch1", freePort(t), "--data-dir", t.TempDir())
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket.LocalAddr().String(), "WATCHDOG_USEC=60000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()

	hear := func(limit time.Duration) (string, bool) {
		t.Helper()
		buf := make([]byte, 4096)
		if err := socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buf)
		return string(buf[:n]), err == nil
	}
	until := func(text string) {
		t.Helper()
		for {
			m, ok := hear(time.Minute)
			if !ok {
				t.Fatalf("never heard %q", text)
			}
			if strings.Contains(m, text) {
				return
			}
		}
	}
	until("READY=1")
	until("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for heard, more := 0, true; more; heard++ {
		if _, more = hear(2 * time.Second); heard > 1000 { // more than what was on its way
			t.Fatal("a stopped branch goes on")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
