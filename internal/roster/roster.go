// Package roster reads branches.txt, the file that names the branches of a bank: one
// `<name> <ip-or-host> <port>` per line, blank lines and lines that start with # skipped.
//
// It also splits the total over the branches and names the default data directories, since both
// follow from the roster and the total alone, and reads what else every program is told in the same
// words: totals, ports, amounts. It neither dials, resolves nor listens: whether an
// address is this machine's is not decided here. Only Load touches a file.
//
// Invariant: a Roster that Parse returned has from MinBranches to MaxBranches branches, in file
// order, with names that are distinct path elements (also where case does not count) and distinct
// addresses.
package roster

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Limits of a roster. The name of a branch is also the name of its directory.
const (
	MinBranches   = 2
	MaxBranches   = 1024
	MaxNameBytes  = 63
	MaxHostBytes  = 253
	MaxLineBytes  = 1024
	MaxFileBytes  = 1 << 20
	shownBytes    = 40 // of a field, in a message
	fieldsPerLine = 3
)

// Branch is one line of the file.
type Branch struct {
	Name string
	Host string // an IP address or a host name, as written
	Port uint16
	Line int // in the file, from 1
}

// Addr is the branch's host:port, as net.Dial takes it.
func (b Branch) Addr() string {
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
}

// Roster is the branches of a bank in file order. Its identity is its ordered names: addresses may
// change from one run to the next.
type Roster struct {
	File     string // as the user wrote it
	Branches []Branch
}

// Names are the names of all branches, in file order.
func (r Roster) Names() []string {
	names := make([]string, len(r.Branches))
	for i, b := range r.Branches {
		names[i] = b.Name
	}
	return names
}

// Index is the position of a name in the file, from 0, or -1.
func (r Roster) Index(name string) int {
	for i, b := range r.Branches {
		if b.Name == name {
			return i
		}
	}
	return -1
}

// Error is a roster that can't be used: what is wrong, where, and what to do.
type Error struct {
	File    string
	Line    int // from 1; 0 when the problem is the file as a whole
	Problem string
	Err     error // the cause, when the file could not be read; otherwise nil
}

// Error is `file:line: problem`, or `file: problem`.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Problem)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem)
}

// Unwrap is the cause, for errors.Is(err, fs.ErrNotExist) and the like.
func (e *Error) Unwrap() error { return e.Err }

// Parse reads the content of a roster file. File is how messages call it. Errors are *Error, for
// the first problem in the file.
func Parse(file string, content []byte) (Roster, error) {
	p := parser{file: file, lineOfName: map[string]int{}, lineOfAddr: map[string]int{}}
	if len(content) > MaxFileBytes {
		return Roster{}, p.errorf(0, "the file is longer than %d bytes: this is not a list of branches", MaxFileBytes)
	}
	if bytes.HasPrefix(content, []byte("\xff\xfe")) || bytes.HasPrefix(content, []byte("\xfe\xff")) {
		return Roster{}, p.errorf(0, "the file is UTF-16: save it as UTF-8 or plain ASCII")
	}
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) // a byte order mark
	for i, line := range bytes.Split(content, []byte("\n")) {
		if err := p.line(i+1, string(line)); err != nil {
			return Roster{}, err
		}
	}
	if n := len(p.branches); n < MinBranches {
		return Roster{}, p.errorf(0, "%s: a bank needs at least %d, one `<name> <ip> <port>` per line",
			counted(n), MinBranches)
	}
	return Roster{File: file, Branches: p.branches}, nil
}

// parser holds what has been read of one file.
type parser struct {
	file       string
	branches   []Branch
	lineOfName map[string]int // by name in lower case
	lineOfAddr map[string]int
}

func (p *parser) errorf(line int, format string, args ...any) *Error {
	return &Error{File: p.file, Line: line, Problem: fmt.Sprintf(format, args...)}
}

func (p *parser) line(number int, text string) error {
	if len(text) > MaxLineBytes {
		return p.errorf(number, "the line is longer than %d bytes: write `<name> <ip> <port>`", MaxLineBytes)
	}
	fields := strings.Fields(text) // also takes off the \r of a Windows line end
	if len(fields) == 0 || fields[0][0] == '#' {
		return nil
	}
	if len(fields) != fieldsPerLine {
		what := "fields"
		if len(fields) == 1 {
			what = "field"
		}
		return p.errorf(number, "%d %s, not %d: write `<name> <ip> <port>`", len(fields), what, fieldsPerLine)
	}
	if len(p.branches) == MaxBranches {
		return p.errorf(number, "more than %d branches: a bank holds at most that many", MaxBranches)
	}
	b := Branch{Name: fields[0], Host: fields[1], Line: number}
	if err := CheckName(b.Name); err != nil {
		return p.errorf(number, "%s", err)
	}
	if err := checkHost(b.Host); err != nil {
		return p.errorf(number, "%s", err)
	}
	var err error
	if b.Port, err = ParsePort(fields[2]); err != nil {
		return p.errorf(number, "%s", err)
	}
	return p.add(b)
}

// add takes a branch unless an earlier line has its name or its address.
func (p *parser) add(b Branch) error {
	name := strings.ToLower(b.Name)
	if line, taken := p.lineOfName[name]; taken {
		if (Roster{Branches: p.branches}).Index(b.Name) >= 0 {
			return p.errorf(b.Line, "the name %s is already on line %d: give each branch its own", b.Name, line)
		}
		return p.errorf(b.Line, "the name %s differs from the one on line %d only in case: "+
			"their directories could be the same, choose another", b.Name, line)
	}
	addr := addressKey(b)
	if line, taken := p.lineOfAddr[addr]; taken {
		return p.errorf(b.Line, "the address %s is already on line %d: give each branch its own port",
			b.Addr(), line)
	}
	p.lineOfName[name] = b.Line
	p.lineOfAddr[addr] = b.Line
	p.branches = append(p.branches, b)
	return nil
}

// addressKey is the same for two spellings of an address that are known to be one without asking
// a resolver.
func addressKey(b Branch) string {
	host := strings.TrimSuffix(strings.ToLower(b.Host), ".")
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(b.Port)))
}

func counted(n int) string {
	switch n {
	case 0:
		return "no branches"
	case 1:
		return "only 1 branch"
	default:
		return fmt.Sprintf("%d branches", n)
	}
}
