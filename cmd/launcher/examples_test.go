package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// likeReadme finds each line of output in the block of README that begins so in what a program really said, but
// for the numbers, for what an ellipsis stands for, and for why a branch is down.
func likeReadme(t *testing.T, begin, output string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```\n(" + regexp.QuoteMeta(begin) + ".*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatalf("README shows no %s", begin)
	}
	number := regexp.MustCompile(`[\d.]*\d(ms|s\b)?`)
	same := func(text string) string { return number.ReplaceAllString(text, "9") }
	for line := range strings.Lines(string(block[1])) {
		if strings.HasPrefix(line, "$") || len(line) < 3 { // a command, an exit code
			continue
		}
		if before, _, down := strings.Cut(line, " is down: "); down {
			line = before + " is down: "
		}
		for part := range strings.SplitSeq(strings.TrimSuffix(line, "\n"), "…") {
			if !strings.Contains(same(output), same(part)) {
				t.Errorf("no line is like README's %s in\n%s", line, output)
			}
		}
	}
}

// TestKillExample: the script of the examples, which does what README shows.
func TestKillExample(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("pkill"); err != nil && os.Getenv("CI") == "true" {
		t.Fatal("CI runs this with pkill")
	} else if err != nil {
		t.Skip("there is no pkill here")
	}
	b := newBank(t)
	cmd := exec.Command("../../examples/kill-a-branch.sh", filepath.Join(b.dir, "branches.txt"))
	cmd.Env = append(os.Environ(), "LAUNCHER="+filepath.Join(b.dir, "launcher"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	likeReadme(t, "branch2 127.0.0.1:9002 is down", string(out))
}
