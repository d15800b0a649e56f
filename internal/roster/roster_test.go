package roster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	two := []Branch{
		{Name: "branch1", Host: "127.0.0.1", Port: 9001, Line: 1},
		{Name: "branch2", Host: "127.0.0.1", Port: 9002, Line: 2},
	}
	moved := func(lines ...int) []Branch {
		branches := append([]Branch(nil), two...)
		for i, line := range lines {
			branches[i].Line = line
		}
		return branches
	}
	tests := []struct {
		name    string
		content string
		want    []Branch
	}{
		{"plain", "branch1 127.0.0.1 9001\nbranch2 127.0.0.1 9002\n", two},
		{"no newline at the end", "branch1 127.0.0.1 9001\nbranch2 127.0.0.1 9002", two},
		{"blank lines", "\n\nbranch1 127.0.0.1 9001\n \t\nbranch2 127.0.0.1 9002\n\n", moved(3, 5)},
		{"comments", "# name ip port\nbranch1 127.0.0.1 9001\n  #more\nbranch2 127.0.0.1 9002\n", moved(2, 4)},
		{"tabs and spaces", "  branch1\t127.0.0.1   9001 \nbranch2 127.0.0.1\t\t9002\n", two},
		{"Windows line ends", "branch1 127.0.0.1 9001\r\nbranch2 127.0.0.1 9002\r\n", two},
		{"byte order mark", "\xef\xbb\xbfbranch1 127.0.0.1 9001\nbranch2 127.0.0.1 9002\n", two},
		{"hosts of every kind", "a localhost 1\nB-2 bank-0.bank.svc.cluster.local 65535\n3 ::1 9001\nd_d fe80::1%eth0 9001\n" +
			"e.e bank_branch2_1 09001\nf 127.0.0.1 9001\n", []Branch{
			{Name: "a", Host: "localhost", Port: 1, Line: 1},
			{Name: "B-2", Host: "bank-0.bank.svc.cluster.local", Port: 65535, Line: 2},
			{Name: "3", Host: "::1", Port: 9001, Line: 3},
			{Name: "d_d", Host: "fe80::1%eth0", Port: 9001, Line: 4},
			{Name: "e.e", Host: "bank_branch2_1", Port: 9001, Line: 5},
			{Name: "f", Host: "127.0.0.1", Port: 9001, Line: 6},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse("branches.txt", []byte(test.content))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Roster{File: "branches.txt", Branches: test.want}, got); diff != "" {
				t.Error("roster (-want +got):\n" + diff)
			}
		})
	}
}

// Every line is the second one of a file whose first line is good, unless it brings its own.
func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes+1)
	const write = ": write `<name> <ip> <port>`"
	const rule = ": use letters, digits, dot, dash and underscore, the first one a letter or digit"
	const host = " is neither an IP address nor a host name: write for example 127.0.0.1"
	const dial = " is not an address that other branches can dial: write 127.0.0.1, or the address of the branch's machine"
	tests := []struct{ name, line, want string }{
		{"one field", "branch2", "branches.txt:2: 1 field, not 3" + write},
		{"two fields", "branch2 127.0.0.1", "branches.txt:2: 2 fields, not 3" + write},
		{"four fields", "branch2 127.0.0.1 9002 500", "branches.txt:2: 4 fields, not 3" + write},
		{"comment after a branch", "branch2 127.0.0.1 9002 # two", "branches.txt:2: 5 fields, not 3" + write},
		{"long line", "branch2 127.0.0.1 9002" + strings.Repeat(" ", MaxLineBytes), "branches.txt:2: the line is longer than 1024 bytes" + write},

		{"path as name", "../branch2 127.0.0.1 9002", `branches.txt:2: bad name "../branch2"` + rule},
		{"hidden name", ".branch2 127.0.0.1 9002", `branches.txt:2: bad name ".branch2"` + rule},
		{"dash first", "-branch2 127.0.0.1 9002", `branches.txt:2: bad name "-branch2"` + rule},
		{"umlaut", "filiale-süd 127.0.0.1 9002", `branches.txt:2: bad name "filiale-süd"` + rule},
		{"not text", "b\x00\xff 127.0.0.1 9002", `branches.txt:2: bad name "b\x00\xff"` + rule},
		{"long name", long + " 127.0.0.1 9002", `branches.txt:2: the name "` + long[:40] + `..." is longer than 63 bytes: shorten it`},
		{"name twice", "branch1 127.0.0.1 9002", "branches.txt:2: the name branch1 is already on line 1: give each branch its own"},
		{"name twice but for case", "Branch1 127.0.0.1 9002", "branches.txt:2: the name Branch1 differs from the one on line 1 only in case: " +
			"their directories could be the same, choose another"},

		{"address twice", "branch2 127.0.0.1 9001", "branches.txt:2: the address 127.0.0.1:9001 is already on line 1: give each branch its own port"},
		{"address twice, spelled differently", "branch2 LocalHost. 9001", "branches.txt:2: the address LocalHost.:9001 is already on line 1: give each branch its own port"},
		{"address twice, mapped", "branch2 ::ffff:127.0.0.1 9001", "branches.txt:2: the address [::ffff:127.0.0.1]:9001 is already on line 1: give each branch its own port"},
		{"mistyped address", "branch2 127.0.0.256 9002", `branches.txt:2: "127.0.0.256"` + host},
		{"short address", "branch2 127.1 9002", `branches.txt:2: "127.1"` + host},
		{"port in the address", "branch2 127.0.0.1:9002 9002", `branches.txt:2: "127.0.0.1:9002"` + host},
		{"brackets", "branch2 [::1] 9002", `branches.txt:2: "[::1]"` + host},
		{"empty label", "branch2 bank..local 9002", `branches.txt:2: "bank..local"` + host},
		{"dash at the end of a label", "branch2 bank-.local 9002", `branches.txt:2: "bank-.local"` + host},
		{"long host", "branch2 " + strings.Repeat("ab.", 90) + "x 9002", `branches.txt:2: "` + strings.Repeat("ab.", 90)[:40] + `..."` + host},
		{"any address", "branch2 0.0.0.0 9002", "branches.txt:2: 0.0.0.0" + dial},
		{"any address, IPv6", "branch2 :: 9002", "branches.txt:2: ::" + dial},
		{"multicast", "branch2 224.0.0.1 9002", "branches.txt:2: 224.0.0.1" + dial},

		{"port too high", "branch2 127.0.0.1 70000", "branches.txt:2: port 70000 is not between 1 and 65535"},
		{"port zero", "branch2 127.0.0.1 0", "branches.txt:2: port 0 is not between 1 and 65535"},
		{"port beyond 64 bits", "branch2 127.0.0.1 99999999999999999999", "branches.txt:2: port 99999999999999999999 is not between 1 and 65535"},
		{"port negative", "branch2 127.0.0.1 -1", `branches.txt:2: port "-1" is not a whole number between 1 and 65535`},
		{"port signed", "branch2 127.0.0.1 +9002", `branches.txt:2: port "+9002" is not a whole number between 1 and 65535`},
		{"port a word", "branch2 127.0.0.1 http", `branches.txt:2: port "http" is not a whole number between 1 and 65535`},
		{"port and name swapped", "9002 127.0.0.1 branch2", `branches.txt:2: port "branch2" is not a whole number between 1 and 65535`},

		{"one branch", "", "branches.txt: only 1 branch: a bank needs at least 2, one `<name> <ip> <port>` per line"},
	}
	for _, ending := range reservedEndings() {
		tests = append(tests, struct{ name, line, want string }{
			"reserved ending " + ending, "bank" + strings.ToUpper(ending) + " 127.0.0.1 9002",
			fmt.Sprintf("branches.txt:2: the name bank%s ends in %s, as cutbank's own files do: choose another", strings.ToUpper(ending), ending),
		})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("branches.txt", []byte("branch1 127.0.0.1 9001\n"+test.line+"\n"))
			checkError(t, err, test.want)
		})
	}
}

func TestParseWholeFileErrors(t *testing.T) {
	tests := []struct{ name, content, want string }{
		{"empty", "", "b.txt: no branches: a bank needs at least 2, one `<name> <ip> <port>` per line"},
		{"comments only", "# nothing\n\n", "b.txt: no branches: a bank needs at least 2, one `<name> <ip> <port>` per line"},
		{"too many branches", lines(MaxBranches + 1), "b.txt:1025: more than 1024 branches: a bank holds at most that many"},
		{"too long", strings.Repeat("#\n", MaxFileBytes/2) + "#", "b.txt: the file is longer than 1048576 bytes: this is not a list of branches"},
		{"UTF-16", "\xff\xfeb\x00", "b.txt: the file is UTF-16: save it as UTF-8 or plain ASCII"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("b.txt", []byte(test.content))
			checkError(t, err, test.want)
		})
	}
	if r, err := Parse("b.txt", []byte(lines(MaxBranches))); err != nil || len(r.Branches) != MaxBranches {
		t.Errorf("%d branches: got %d, %v", MaxBranches, len(r.Branches), err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("branches.txt", []byte(lines(4)), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Load("branches.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b1", "b2", "b3", "b4"}, r.Names()); diff != "" {
		t.Error("names (-want +got):\n" + diff)
	}
	if got := r.Branches[2].Addr(); got != "127.0.0.1:9003" {
		t.Errorf("address of b3: %s", got)
	}
	if got := (Branch{Host: "::1", Port: 9001}).Addr(); got != "[::1]:9001" {
		t.Errorf("IPv6 address: %s", got)
	}
	if i, j := r.Index("b3"), r.Index("B3"); i != 2 || j != -1 {
		t.Errorf("index of b3: %d, of B3: %d", i, j)
	}

	if err := os.WriteFile("huge.txt", make([]byte, 2*MaxFileBytes), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo("pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"none.txt":  "none.txt: no such file: name a file with one `<name> <ip> <port>` per line",
		".":         ".: this is a directory: name a file with one `<name> <ip> <port>` per line",
		"pipe":      "pipe: not a regular file: name a file with one `<name> <ip> <port>` per line",
		"huge.txt":  "huge.txt: the file is longer than 1048576 bytes: this is not a list of branches",
		"":          ": no such file: name a file with one `<name> <ip> <port>` per line",
		"a\x00.txt": "a\x00.txt: invalid argument",
	} {
		_, err := Load(path)
		checkError(t, err, want)
		if path == "none.txt" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is not fs.ErrNotExist", err)
		}
	}
}

// The rosters that come with the program are good ones.
func TestLoadShipped(t *testing.T) {
	for file, want := range map[string]int{
		"branches.txt": 4, "examples/branches-2.txt": 2, "examples/branches-4.txt": 4, "examples/branches-16.txt": 16,
	} {
		r, err := Load(filepath.Join("..", "..", file))
		if err != nil || len(r.Branches) != want {
			t.Errorf("%s: %d branches, %v; want %d", file, len(r.Branches), err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(lines(2)))
	f.Add([]byte("\xef\xbb\xbfa ::1 1\r\n# c\r\n\r\nb localhost 65535"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := Parse("f", content)
		if err != nil {
			var rosterErr *Error
			if !errors.As(err, &rosterErr) || len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("not one clear message: %q", err)
			}
			return
		}
		if len(r.Branches) < MinBranches || len(r.Branches) > MaxBranches {
			t.Fatalf("%d branches", len(r.Branches))
		}
		// Written down again it is the same roster.
		var again strings.Builder
		for i, b := range r.Branches {
			if CheckName(b.Name) != nil || filepath.Base(b.Name) != b.Name || r.Index(b.Name) != i {
				t.Fatalf("name %q", b.Name)
			}
			fmt.Fprintf(&again, "%s %s %d\n", b.Name, b.Host, b.Port)
			r.Branches[i].Line = i + 1
		}
		same, err := Parse("f", []byte(again.String()))
		if diff := cmp.Diff(r, same); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "b%d 127.0.0.1 %d\n", i+1, 9001+i)
	}
	return b.String()
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want %s", want)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error("message (-want +got):\n" + diff)
	}
}
