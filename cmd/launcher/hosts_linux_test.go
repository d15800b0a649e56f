package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// network is three hosts, each a network namespace with an address of its own, on one bridge.
type network struct {
	t    *testing.T
	dir  string
	name string // of the namespaces, without the number
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	_, err := exec.LookPath("ip")
	if need := err != nil || os.Getuid() != 0; need && os.Getenv("CI") == "true" {
		t.Fatal("CI runs this as root, with iproute2")
	} else if need {
		t.Skip("needs root and iproute2: three hosts as network namespaces")
	}
	n := &network{t: t, dir: t.TempDir(), name: fmt.Sprintf("cb%d-", os.Getpid())}
	install(t, n.dir, "branch")
	t.Cleanup(func() {
		_ = exec.Command("pkill", "-KILL", "-f", n.dir+"/branch ").Run() // they outlive a launcher that was killed
		for host := range 4 {
			_ = exec.Command("ip", "netns", "del", n.ns(host)).Run()
			_ = os.RemoveAll(filepath.Join("/etc/netns", n.ns(host)))
		}
	})
	n.ip("netns", "add", n.ns(0))
	n.in(0, "link", "add", "bridge", "type", "bridge")
	n.in(0, "link", "set", "bridge", "up")
	for host := 1; host <= 3; host++ {
		n.ip("netns", "add", n.ns(host))
		n.in(host, "link", "set", "lo", "up")
		n.in(host, "link", "add", "net", "type", "veth", "peer", "name", fmt.Sprintf("host%d", host), "netns", n.ns(0))
		n.in(host, "addr", "add", fmt.Sprintf("10.77.0.%d/24", host), "dev", "net")
		n.in(host, "link", "set", "net", "up")
		n.in(0, "link", "set", fmt.Sprintf("host%d", host), "master", "bridge")
		n.connect(host, true)
	}
	return n
}

// ns is the namespace of a host; 0 is the switch.
func (n *network) ns(host int) string { return fmt.Sprintf("%s%d", n.name, host) }

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func (n *network) in(host int, args ...string) {
	n.t.Helper()
	n.ip(append([]string{"-netns", n.ns(host)}, args...)...)
}

// connect plugs a host in, or cuts it off.
func (n *network) connect(host int, up bool) {
	n.t.Helper()
	n.in(0, "link", "set", fmt.Sprintf("host%d", host), map[bool]string{true: "up", false: "down"}[up])
}

// names writes the hosts file that a namespace sees in place of the machine's.
func (n *network) names(addresses map[string]string) {
	n.t.Helper()
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n")
	for name, address := range addresses {
		fmt.Fprintf(&text, "%s %s\n", address, name)
	}
	for host := 1; host <= 3; host++ {
		dir := filepath.Join("/etc/netns", n.ns(host))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(text.String()), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
}

// launcher runs a launcher on a host, with a data directory of its own.
func (n *network) launcher(host int, args ...string) *running {
	n.t.Helper()
	args = append([]string{
		"netns", "exec", n.ns(host), filepath.Join(n.dir, "launcher"), "4000", "branches.txt", "--data-dir", fmt.Sprintf("host%d", host),
		"--interval", "5ms", "--link-delay", "0", "--snapshot-interval", "200ms", "--http", "",
	}, args...)
	r := &running{t: n.t, cmd: exec.Command("ip", args...), lines: make(chan string, 100_000)}
	r.cmd.Dir, r.cmd.Stdout = n.dir, &r.out
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	var last []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			last = append(last[max(0, len(last)-30):], s.Text())
			r.lines <- s.Text()
		}
	}()
	n.t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		if <-read; n.t.Failed() {
			n.t.Logf("host %d said at last:\n%s", host, strings.Join(last, "\n"))
		}
	})
	return r
}

// stop ends a launcher in order.
func (r *running) stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		r.t.Fatal(err)
	}
	for range r.lines { // to its end
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Error(err)
	}
}

// TestThreeHosts: a launcher on each of three hosts, one controller, TLS between all of them, host names in
// the roster. A host is cut off while all pay and snapshots are taken, a branch is killed meanwhile, and
// another moves to a new address: when the network heals, every snapshot is exact, and the ids go on.
func TestThreeHosts(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	roster, err := os.ReadFile("../../examples/hosts/branches.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "branches.txt"), roster, 0o600); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{"one": "10.77.0.1", "two": "10.77.0.2", "three": "10.77.0.3"}
	n.names(addresses)
	certs := exec.Command(filepath.Join(n.dir, "launcher"), "certs", "branches.txt", "tls")
	certs.Dir = n.dir
	if out, err := certs.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	if out, err := exec.Command("ip", "netns", "exec", n.ns(1), filepath.Join(n.dir, "launcher"), "4000",
		filepath.Join(n.dir, "branches.txt"), "--data-dir", filepath.Join(n.dir, "plain")).CombinedOutput(); err == nil ||
		!bytes.Contains(out, []byte("--insecure")) {
		t.Errorf("plaintext beyond loopback: %v: %s", err, out)
	}

	first := n.launcher(1, "--tls", "tls")
	second := n.launcher(2, "--tls", "tls", "--no-controller")
	third := n.launcher(3, "--tls", "tls", "--no-controller")
	first.until(`opened a new bank: 4000 in 6 branches`)
	first.until(`^snapshot 3 .* = 4000 ✓`)

	n.connect(3, false)
	first.until(`branch3 .* is down`)
	if err := exec.Command("pkill", "-KILL", "-f", n.dir+"/branch branch5").Run(); err != nil {
		t.Errorf("kill branch5: %v", err)
	}
	second.until(`branch5 ended`)
	n.connect(3, true)
	for range 5 {
		first.until(`^snapshot \d+ .* = 4000 ✓`)
	}

	// Host two gets another address: names are resolved again at each dial.
	second.stop()
	n.in(2, "addr", "flush", "dev", "net")
	n.in(2, "addr", "add", "10.77.0.22/24", "dev", "net")
	addresses["two"] = "10.77.0.22"
	n.names(addresses)
	second = n.launcher(2, "--tls", "tls", "--no-controller")
	first.until(`branch2 .* is down`)
	for range 5 {
		first.until(`^snapshot \d+ .* = 4000 ✓`)
	}
	first.stop()
	second.stop()
	third.stop()
	if out, err := exec.Command("pgrep", "-f", n.dir+"/branch ").Output(); err == nil {
		t.Errorf("processes left: %s", out)
	}
	if blocks := regexp.MustCompile(`(?m)^snapshot_id: `).FindAllString(first.out.String(), -1); len(blocks) < 13 {
		t.Errorf("%d blocks on stdout", len(blocks))
	}
}
