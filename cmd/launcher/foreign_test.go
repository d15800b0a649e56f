package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"cutbank/internal/judge"
)

// exampleBranches are the programs in examples/branches and what has to be found out about them: one of must,
// and nothing that is neither there nor in may.
var exampleBranches = []struct {
	name, command string
	flags         string
	must, may     []string
	text          string // in the evidence of the first of must
}{
	{name: "correct in Python", command: "python3 py/branch.py {name} {port} {interval}"},
	{name: "correct in Go", command: "./go {name} {port} {interval}"},
	{name: "cutbank's own", command: "./branch {name} {port} {interval}"},
	{name: "overlapping snapshots", command: "python3 py/branch.py {name} {port} {interval}", flags: "--snapshot-interval 50ms --snapshots 10"},
	{name: "paused", command: "./go {name} {port} {interval}", flags: "--chaos 300ms --snapshots 8"},
	{name: "mixed", command: "branch2=./go {name} {port} {interval}"},
	{name: "connection_per_message", must: []string{"connection"}, may: []string{"start", "sum", "answers"}, text: "on another connection"},
	{name: "no_framing", must: []string{"framing"}, text: "no framing: messages without a length"},
	{name: "four_byte_length", must: []string{"framing"}, text: "a length of 4 bytes, big-endian"},
	{name: "marker_late", must: []string{"markers"}, may: []string{"sum"}, text: "comes after transfers"},
	{name: "wrong_order", must: []string{"order"}, text: "in another order all fit"},
	{name: "zeros_left_out", must: []string{"order"}, text: "zeros have to be there too"},
	{name: "counted_twice", must: []string{"books"}, may: []string{"sum"}, text: "more than what passed"},
	{name: "before_init", must: []string{"start"}, text: "before the receiver was sent its InitBranch"},
	{name: "current_balance", must: []string{"amount"}, text: "not 10 to 50"},
	{name: "one_snapshot", must: []string{"answers"}, flags: "--snapshot-interval 50ms", text: "no answer to RetrieveSnapshot"},
	{name: "threads", must: []string{"books", "markers"}, may: []string{"sum"}},
}

// verdict is what a launcher found.
type verdict struct {
	stdout, stderr bytes.Buffer
	code           int
	report         judge.Report
	err            error
}

// TestExamples: the rules that the examples break are found, with evidence, and no others.
func TestExamples(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil && os.Getenv("CI") == "true" {
		t.Fatal("CI runs this with python3")
	} else if err != nil {
		t.Skip("there is no python3 here")
	}
	if testing.Short() {
		t.Skip("real processes, a minute of waiting")
	}
	dir := t.TempDir()
	install(t, dir, "branch")
	here, err := filepath.Abs("../../examples/branches")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(here, filepath.Join(dir, "py")); err != nil {
		t.Fatal(err)
	}
	results := make([]*verdict, len(exampleBranches))
	room := make(chan struct{}, 6) // most of their time they wait
	var wg sync.WaitGroup
	for i, e := range exampleBranches {
		roster := rosterFile(t, dir, fmt.Sprintf("branches-%d.txt", i))
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			results[i] = runExample(dir, roster, e.name, e.command, e.flags)
		})
	}
	wg.Wait()
	for i, e := range exampleBranches {
		t.Run(e.name, func(t *testing.T) { check(t, results[i], e.must, e.may, e.text) })
		if e.name == "marker_late" {
			likeReadme(t, "✗ broken    markers", results[i].report.String())
		}
	}
	if left, _ := exec.Command("pgrep", "-f", dir).Output(); len(left) > 0 {
		t.Errorf("processes left: %s", left)
	}
}

func runExample(dir, roster, name, command, flags string) *verdict {
	commands := []string{"--branch-cmd", command}
	if command == "" {
		commands[1] = "python3 py/" + name + ".py {name} {port} {interval}"
	}
	if strings.Contains(command, "=") {
		commands = append(commands, "--branch-cmd", "python3 py/branch.py {name} {port} {interval}")
	}
	args := append([]string{
		"4000", roster, "--json", "--interval", "20ms", "--link-delay", "5ms-40ms",
		"--snapshot-wait", "200ms", "--snapshot-interval", "300ms", "--snapshots", "5",
	}, commands...)
	v := &verdict{}
	cmd := exec.Command(filepath.Join(dir, "launcher"), append(args, strings.Fields(flags)...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &v.stdout, &v.stderr
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		v.err = err
		return v
	}
	v.code = cmd.ProcessState.ExitCode()
	lines := bytes.Split(bytes.TrimSpace(v.stdout.Bytes()), []byte("\n"))
	v.err = json.Unmarshal(lines[len(lines)-1], &v.report)
	return v
}

func check(t *testing.T, v *verdict, must, may []string, text string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%s", &v.stderr)
		}
	}()
	if v.err != nil || v.report.Schema != judge.Schema {
		t.Fatalf("no report: %v", v.err)
	}
	broken := v.report.Broken()
	if want := min(3, 3*len(must)); v.code != want {
		t.Errorf("exit code %d, want %d", v.code, want)
	}
	if len(must) > 0 && !slices.ContainsFunc(must, func(r string) bool { return slices.Contains(broken, r) }) {
		t.Errorf("broken: %v, not %v", broken, must)
	}
	for _, f := range v.report.Rules {
		switch {
		case f.Verdict == judge.Broken && !slices.Contains(must, f.Rule) && !slices.Contains(may, f.Rule):
			t.Errorf("%s is not broken: %s", f.Rule, f.Evidence)
		case f.Verdict == judge.Broken && f.Rule == must[0] && (!strings.Contains(f.Evidence.Message, text) || f.Evidence.Channel == "" || f.Evidence.AtUS == 0):
			t.Errorf("evidence of %s is %+v, without %q", f.Rule, f.Evidence, text)
		case len(must) == 0 && f.Verdict != judge.Kept:
			t.Errorf("%s: %s, %s", f.Rule, f.Verdict, f.Why)
		}
	}
}

// TestForeignText: what people see of a bank that is in order, and the directory that is left.
func TestForeignText(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	cmd := exec.Command(filepath.Join(b.dir, "launcher"), "4000", "branches.txt", "--branch-cmd", "./branch {name} {port} 20",
		"--snapshot-wait", "100ms", "--snapshots", "2", "--snapshot-interval", "200ms", "--link-delay", "20ms-60ms")
	cmd.Dir = b.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	b.ids(string(stdout))
	for _, want := range []string{
		`opened the bank: 4000 in 4 branches; 6 of 6 pairs`, `snapshot 2  .* = 4000 ✓`, `✓ kept      sum .*\(2 times\)`,
		`15 rules kept, 0 broken, 0 not seen, in 2 snapshots`,
	} {
		if !regexp.MustCompile(want).MatchString(stderr.String()) {
			t.Errorf("no %q in\n%s", want, &stderr)
		}
	}
	for _, name := range []string{"branch1.log", "report.json"} {
		if info, err := os.Stat(filepath.Join(b.dir, "data/foreign-branches.txt-4000", name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForeignNotSeen: branches that never pay break nothing, and do not pass.
func TestForeignNotSeen(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	cmd := exec.Command(filepath.Join(b.dir, "launcher"), "4000", "branches.txt", "--branch-cmd", "./branch {name} {port} 3600000",
		"--snapshot-wait", "100ms", "--snapshots", "1", "--link-delay", "0")
	cmd.Dir = b.dir
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitNotSeen || !regexp.MustCompile(`0 broken, \d+ not seen, in 1 snapshots: too little was seen`).Match(out) ||
		!bytes.Contains(out, []byte("too little was seen of start, ")) {
		t.Errorf("exit code %d\n%s", cmd.ProcessState.ExitCode(), out)
	}
}

// TestForeignNotOpened: programs that can't be a branch, and their last words.
func TestForeignNotOpened(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	for command, test := range map[string]struct{ wait, want string }{
		`sh -c "echo no such module >&2; exit 7" {port}`: {"1m", `branch1 ended before it listened on .*: exit code 7: no such module`},
		`sleep 60 {port}`: {"100ms", `branch1 (ended before it listened|does not listen)`},
	} {
		cmd := exec.Command(filepath.Join(b.dir, "launcher"), "4000", "branches.txt", "--branch-cmd", command, "--wait", test.wait)
		cmd.Dir = b.dir
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 4 || !regexp.MustCompile(test.want).Match(out) {
			t.Errorf("%s: exit code %d, want 4 and %q\n%s", command, cmd.ProcessState.ExitCode(), test.want, out)
		}
	}
}
