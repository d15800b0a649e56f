package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestHelp: what golden_help.txtar holds the programs to begins with an example, and has a default for every
// flag that takes a value.
func TestHelp(t *testing.T) {
	content, err := os.ReadFile("testdata/script/golden_help.txtar")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?m)^-- (\w+)\.txt --\n`).Split(string(content), -1)[1:]
	if len(parts) != 5 {
		t.Fatalf("%d programs", len(parts))
	}
	flag := regexp.MustCompile(`^ +(?:-\w, )? *--(\S+) `)
	for _, text := range parts {
		example, first := strings.Index(text, "\n  "), len(text)
		for line := range strings.Lines(text) {
			m := flag.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			first = min(first, strings.Index(text, line))
			if !strings.Contains(m[1], "true|false") && !strings.Contains(line, "default") {
				t.Errorf("no default: %s", line)
			}
		}
		if example < 0 || example > first {
			t.Errorf("the examples are not first:\n%s", text)
		}
	}
}
