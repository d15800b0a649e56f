package main_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	main "cutbank/cmd/branch"
	"cutbank/proto/bankpb"
)

const assignmentTotal = 4003

// The bank is opened and its snapshots are taken by a client that knows the assignment's six
// messages and nothing of cutbank: here with bytes written by hand.
func TestAssignmentRawBytes(t *testing.T) {
	addrs, _ := startBranches(t, 4)
	roster := ""
	for i, addr := range addrs {
		entry := field(1, fmt.Sprintf("branch%d", i+1)) + field(2, "127.0.0.1") + "\x18" + uvarint(uint64(addr.Port))
		roster += field(2, entry)
	}
	peers := make([]*bufio.ReadWriter, len(addrs))
	for i, addr := range addrs {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		peers[i] = bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
		balance := uint64(assignmentTotal / len(addrs))
		if i < assignmentTotal%len(addrs) {
			balance++
		}
		send(t, peers[i], field(1, "\x08"+uvarint(balance)+roster)) // InitBranch
	}
	for id := uint64(1); id <= 3; id++ {
		// Retrieved before it is started: the answer comes when the snapshot is complete.
		for _, peer := range peers[1:] {
			send(t, peer, field(5, "\x08"+uvarint(id))) // RetrieveSnapshot
		}
		send(t, peers[0], field(3, "\x08"+uvarint(id))) // InitSnapshot
		send(t, peers[0], field(5, "\x08"+uvarint(id)))
		money := uint64(0)
		for _, peer := range peers {
			money += returned(t, receive(t, peer), id, len(peers)-1)
		}
		if money != assignmentTotal {
			t.Errorf("snapshot %d sums to %d, not %d", id, money, assignmentTotal)
		}
	}
}

// The same by a program in another language.
func TestAssignmentPython(t *testing.T) {
	python := pythonWithProtobuf(t)
	_, roster := startBranches(t, 4)
	cmd := exec.CommandContext(t.Context(), python, "../../examples/python/client.py", strconv.Itoa(assignmentTotal), roster, "3", "0.05")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	line := `branch%d: \d+, branch\d->branch%[1]d: \d+, branch\d->branch%[1]d: \d+, branch\d->branch%[1]d: \d+\n`
	want := "^"
	for id := range 3 {
		want += fmt.Sprintf("snapshot_id: %d\n", id+1)
		for i := range 4 {
			want += fmt.Sprintf(line, i+1)
		}
		want += "\n"
	}
	if !regexp.MustCompile(want + "$").Match(out) {
		t.Errorf("got\n%s\nwant %s", out, want)
	}
}

// pythonWithProtobuf finds an interpreter that has the standard package.
func pythonWithProtobuf(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} { // the system's has the system's packages
		if exec.Command(python, "-c", "import google.protobuf").Run() == nil {
			return python
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("CI runs this with python3-protobuf")
	}
	t.Skip("there is no python3 with protobuf here")
	return ""
}

// TestPythonDescriptor: examples/python/bank_pb2.py is made from the same proto as the Go code.
func TestPythonDescriptor(t *testing.T) {
	cmd := exec.Command(pythonWithProtobuf(t), "-c", "import sys, bank_pb2; sys.stdout.buffer.write(bank_pb2.DESCRIPTOR.serialized_pb)")
	cmd.Dir = "../../examples/python"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := new(descriptorpb.FileDescriptorProto), protodesc.ToFileDescriptorProto(bankpb.File_bank_proto)
	if err := proto.Unmarshal(out, theirs); err != nil {
		t.Fatal(err)
	}
	names := protocmp.IgnoreFields(&descriptorpb.FieldDescriptorProto{}, "json_name") // protoc leaves out what follows
	if diff := cmp.Diff(ours, theirs, protocmp.Transform(), names); diff != "" {
		t.Errorf("examples/python/bank_pb2.py is old: make gen, with protoc\n%s", diff)
	}
}

// startBranches starts n of the program, each as a standalone one.
func startBranches(t *testing.T, n int) (addrs []*net.TCPAddr, roster string) {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(main.Programs(t), "branch")
	var lines strings.Builder
	for port := 18000 + os.Getpid()%1900; len(addrs) < n; port++ { // those of trials are below, the launcher's tests' above
		port = main.FreePort(t, port)
		addrs = append(addrs, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		fmt.Fprintf(&lines, "branch%d 127.0.0.1 %d\n", len(addrs), port)
	}
	roster = filepath.Join(dir, "branches.txt")
	if err := os.WriteFile(roster, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, addr := range addrs {
		start(t, bin, i+1, addr)
	}
	return addrs, roster
}

// start starts a branch and waits until it listens.
func start(t *testing.T, bin string, number int, addr *net.TCPAddr) {
	t.Helper()
	cmd := exec.Command(bin, fmt.Sprintf("branch%d", number), strconv.Itoa(addr.Port), "--interval", "2ms", "--link-delay", "1ms-5ms")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listens := make(chan bool)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		lines := bufio.NewScanner(stderr)
		for said := false; lines.Scan(); {
			if !said && strings.Contains(lines.Text(), "listens") {
				said = true
				close(listens)
			}
		}
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-exited
	})
	select {
	case <-listens:
	case <-exited:
		t.Fatalf("branch%d ended before it listened", number)
	}
}

func uvarint(n uint64) string { return string(binary.AppendUvarint(nil, n)) }

// field is a field of protobuf that holds bytes: a message or a string.
func field(number byte, data string) string {
	return string(number<<3|2) + uvarint(uint64(len(data))) + data
}

func send(t *testing.T, peer *bufio.ReadWriter, message string) {
	t.Helper()
	_, err := peer.WriteString(uvarint(uint64(len(message))) + message)
	if err == nil {
		err = peer.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, peer *bufio.ReadWriter) *strings.Reader {
	t.Helper()
	size, err := binary.ReadUvarint(peer)
	if err != nil {
		t.Fatal(err)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(peer, message); err != nil {
		t.Fatal(err)
	}
	return strings.NewReader(string(message))
}

// returned reads a ReturnSnapshot and is the money in it: the balance and the channels' states.
func returned(t *testing.T, message *strings.Reader, id uint64, channels int) (money uint64) {
	t.Helper()
	next := func() uint64 {
		n, err := binary.ReadUvarint(message)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if key := next(); key != 6<<3|2 {
		t.Fatalf("not a ReturnSnapshot: field %d", key>>3)
	}
	next() // its length
	if key := next(); key != 1<<3|2 {
		t.Fatalf("not a LocalSnapshot: field %d", key>>3)
	}
	next()
	if key, got := next(), next(); key != 1<<3 || got != id {
		t.Fatalf("field %d: snapshot %d, not %d", key>>3, got, id)
	}
	key := next()
	if key == 2<<3 { // a balance of zero is left out
		money, key = next(), next()
	}
	if key != 3<<3|2 {
		t.Fatalf("not the channels: field %d", key>>3)
	}
	size := int(next())
	end := message.Len() - size
	for end < message.Len() {
		channels--
		money += next()
	}
	if channels != 0 {
		t.Errorf("%d channels missing", channels)
	}
	return money
}
