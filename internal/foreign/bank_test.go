package foreign

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"cutbank/internal/judge"
	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

// TestMain is a branch when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "late" {
		late(os.Args[2], os.Args[3])
	}
	os.Exit(m.Run())
}

// late is a branch that dials too late, forgives empty messages, complains to the controller, and says nothing else.
func late(name, address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	nc, err := l.Accept()
	if err != nil {
		panic(err)
	}
	for empty, r := 0, bufio.NewReader(nc); ; {
		m := new(bankpb.BranchMessage)
		err := protodelim.UnmarshalFrom(r, m)
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			panic(err)
		case m.GetInitBranch() == nil:
			empty++
			fmt.Fprintln(nc, "an empty message?")
		case empty > 0 && name == m.GetInitBranch().GetAllBranches()[0].GetName():
			to := m.GetInitBranch().GetAllBranches()[1]
			if _, err := net.Dial("tcp", net.JoinHostPort(to.GetIp(), strconv.Itoa(int(to.GetPort())))); err != nil {
				panic(err)
			}
		}
	}
}

// TestLate: who was too slow, and took what is badly framed then, has not framed badly itself.
func TestLate(t *testing.T) {
	t.Parallel()
	r, commands := roster.Roster{File: "b.txt"}, [][]string{}
	var held []net.Listener // at once, so that the ports differ
	for i := range 2 {
		l, err := net.Listen("tcp", "127.7.10.1:0") // where no other test looks for a port
		if err != nil {
			t.Fatal(err)
		}
		b := roster.Branch{Name: fmt.Sprintf("b%d", i), Host: "127.7.10.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}
		held = append(held, l)
		r.Branches = append(r.Branches, b)
		commands = append(commands, []string{os.Args[0], "late", b.Name, b.Addr()})
	}
	for _, l := range held {
		_ = l.Close()
	}
	report, err := Run(context.Background(), Config{
		Roster: r, Total: 20, Commands: commands, Dir: t.TempDir(), Wait: time.Minute, Say: t.Logf, openWait: time.Second,
	})
	if wait := (*WaitError)(nil); !errors.As(err, &wait) || report.Verdict != judge.NotSeen {
		t.Errorf("%v\n%s", err, report)
	}
}
