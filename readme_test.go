package cutbank_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestReadmeSums: what README shows as output has the form of the output, and balances.
func TestReadmeSums(t *testing.T) {
	content, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	lines := regexp.MustCompile(`(?m)^snapshot (\d+)  (\d+) in branches \+ (\d+) in transit = (\d+) ✓`).FindAllStringSubmatch(text, -1)
	if len(lines) < 3 {
		t.Errorf("%d snapshot lines", len(lines))
	}
	for _, l := range lines {
		if number(t, l[2])+number(t, l[3]) != number(t, l[4]) {
			t.Errorf("does not add up: %s", l[0])
		}
	}
	block := regexp.MustCompile(`(?m)^snapshot_id: \d+\n((?:branch\d: .*\n)+)`).FindStringSubmatch(text)
	if block == nil {
		t.Fatal("no snapshot block")
	}
	sum := 0
	for _, m := range regexp.MustCompile(`: (\d+)`).FindAllStringSubmatch(block[1], -1) {
		sum += number(t, m[1])
	}
	if sum != 4000 || strings.Count(block[1], "\n") != 4 {
		t.Errorf("the block sums to %d in %d lines", sum, strings.Count(block[1], "\n"))
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDocumentsQuoteStories: what docs/ shows of a script stands in the script, to the letter.
func TestDocumentsQuoteStories(t *testing.T) {
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	quotes := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)<!-- story: (\\w+) -->\n```\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			story, err := os.ReadFile(filepath.Join("internal/ledger/testdata/stories", m[1]))
			if err != nil {
				t.Fatal(err)
			}
			if quotes++; !strings.Contains(uncommented(string(story)), m[2]) {
				t.Errorf("%s shows what is not in the story %s:\n%s", file, m[1], m[2])
			}
		}
	}
	if quotes < 4 {
		t.Errorf("only %d quotes", quotes)
	}
}

// uncommented leaves out comments and the empty lines that they leave.
func uncommented(story string) string {
	story = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(story, "")
	return regexp.MustCompile(`\n{3,}`).ReplaceAllString(story, "\n\n")
}
