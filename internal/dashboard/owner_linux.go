package dashboard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// KnowsUsers tells that this system says whose a connection is.
const KnowsUsers = true

var errNobody = errors.New("no open socket of this machine is its other end")

// userOf is the user id of the socket at the other end of a connection, by the kernel's list of sockets.
func userOf(nc net.Conn) (user int, err error) {
	from, to, err := ends(nc)
	if err != nil {
		return 0, err
	}
	// Twice: of a socket that its program closes between two looks of the kernel, the list could have user 0
	// (nobody's) beside an inode that it still had. What is closed stays so.
	for range 2 {
		if user, err = listed(from, to); err != nil {
			return 0, err
		}
	}
	return user, nil
}

func ends(nc net.Conn) (from, to netip.AddrPort, err error) {
	far, ok := nc.RemoteAddr().(*net.TCPAddr)
	near, and := nc.LocalAddr().(*net.TCPAddr)
	if !ok || !and {
		return from, to, fmt.Errorf("%s is no TCP address", nc.RemoteAddr())
	}
	return far.AddrPort(), near.AddrPort(), nil
}

func listed(from, to netip.AddrPort) (user int, err error) {
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		six := strings.HasSuffix(path, "6") // also has IPv4, of programs that dial by an IPv6 socket
		if !six && !from.Addr().Unmap().Is4() {
			continue
		}
		f, err := os.Open(path) //nolint:gosec // one of the two above
		if errors.Is(err, fs.ErrNotExist) && six {
			break // a kernel without IPv6
		} else if err != nil {
			return 0, err
		}
		user, err := find(f, column(from, six)+" "+column(to, six))
		if f.Close(); !errors.Is(err, errNobody) { //nolint:errcheck // was read
			return user, err
		}
	}
	return 0, errNobody
}

// find reads a list of sockets up to the one with these addresses:
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
func find(list io.Reader, addresses string) (user int, err error) {
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), addresses) {
			continue
		}
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[9] == "0" { // closed by its program: it is nobody's now
			return 0, errNobody
		}
		return strconv.Atoi(f[7])
	}
	if lines.Err() != nil {
		return 0, lines.Err()
	}
	return 0, errNobody
}

// column is an address as the list has it: words of 32 bits as this machine reads them, and the port.
func column(a netip.AddrPort, six bool) string {
	as16, as4 := a.Addr().As16(), [4]byte{}
	b := as16[:]
	if !six {
		as4 = a.Addr().Unmap().As4()
		b = as4[:]
	}
	var text strings.Builder
	for ; len(b) > 0; b = b[4:] {
		fmt.Fprintf(&text, "%08X", binary.NativeEndian.Uint32(b))
	}
	fmt.Fprintf(&text, ":%04X", a.Port())
	return text.String()
}
