package dashboard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// TestUserOf: of a connection of this process, by both families and by an IPv6 socket that dials IPv4.
func TestUserOf(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("left out: %v", err) // no IPv6 here
			continue
		}
		defer l.Close()
		dialled, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		nc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if user, err := userOf(nc); err != nil || user != os.Geteuid() {
			t.Errorf("%s: user %d, %v", address, user, err)
		}
		if err := dialled.Close(); err != nil {
			t.Fatal(err)
		}
		if user, err := userOf(nc); !errors.Is(err, errNobody) {
			t.Errorf("%s, closed: user %d, %v", address, user, err)
		}
	}
}

// TestFind reads a kernel's list.
func TestFind(t *testing.T) {
	const four = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0
   1: 0100007F:1B9E 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 20 4 30 10 -1
   2: 0100007F:C350 0100007F:1B9E 01 00000000:00000000 00:00000000 00000000  1001        0 13 1 0 20 4 30 10 -1
   3: 0100007F:C351 0100007F:1B9E 05 00000000:00000000 00:00000000 00000000     0        0 0 2 0
`
	const six = `  sl  local_address rem_address st
   0: 0000000000000000FFFF00000100007F:C352 0000000000000000FFFF00000100007F:1B9E 01 00000000:00000000 00:00000000 00000000  1002        0 14 1 0
   1: 00000000000000000000000001000000:C353 00000000000000000000000001000000:1B9E 01 00000000:00000000 00:00000000 00000000  1003        0 15 1 0
`
	if column(netip.MustParseAddrPort("127.0.0.1:7070"), false) != "0100007F:1B9E" {
		t.Skip("SKIPPED: the lists above are of a little-endian machine")
	}
	for _, c := range []struct {
		list, from string
		user       int
		err        error
	}{
		{four, "127.0.0.1:50000", 1001, nil},
		{four, "127.0.0.1:50001", 0, errNobody}, // its program has closed it
		{four, "127.0.0.1:50002", 0, errNobody},
		{six, "127.0.0.1:50002", 1002, nil},
		{six, "[::1]:50003", 1003, nil},
		{six, "127.0.0.1:50003", 0, errNobody},
	} {
		from := netip.MustParseAddrPort(c.from)
		to := netip.AddrPortFrom(from.Addr(), 7070)
		user, err := find(strings.NewReader(c.list), column(from, c.list == six)+" "+column(to, c.list == six))
		if user != c.user || !errors.Is(err, c.err) {
			t.Errorf("%s: user %d, %v", c.from, user, err)
		}
	}
}
