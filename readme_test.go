package cutbank_test

import (
	"os"
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
