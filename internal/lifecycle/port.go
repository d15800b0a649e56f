package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// PortError is an address that can't be listened on.
type PortError struct {
	Address string
	Holder  string // "pid 812 (nginx)"; empty: not known
	Err     error
}

func (e *PortError) Error() string {
	_, port, _ := net.SplitHostPort(e.Address)
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE) && e.Holder != "":
		return fmt.Sprintf("port %s is in use by %s", port, e.Holder)
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("port %s is in use", port)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is not an address of this machine", e.Address)
	}
	return fmt.Sprintf("can't listen on %s: %v", e.Address, e.Err)
}

// Unwrap is the cause.
func (e *PortError) Unwrap() error { return e.Err }

// Listen listens on host:port. Error: *PortError, which names who holds the port where the system
// tells (Linux, /proc).
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	e := &PortError{Address: address, Err: err}
	if _, text, splitErr := net.SplitHostPort(address); splitErr == nil && errors.Is(err, syscall.EADDRINUSE) {
		if port, atoiErr := strconv.ParseUint(text, 10, 16); atoiErr == nil {
			e.Holder = portHolder(port)
		}
	}
	return nil, e
}

// portHolder finds the process that listens on a port, or nothing.
func portHolder(port uint64) string {
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, _ := os.ReadFile(table) //nolint:gosec // the kernel's own
		for line := range strings.Lines(string(content)) {
			f := strings.Fields(line) // sl local_address rem_address st … inode is the tenth
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && inodes[to] {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm")) //nolint:gosec // the kernel's own
			return fmt.Sprintf("pid %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}
