package cutbank_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cutbank/internal/rules"
)

// TestCorrectnessNames: the tests, checkers, mutants and switches of the model that docs/correctness.md names
// exist, and no mutant and no checker of the simulator is missing there.
func TestCorrectnessNames(t *testing.T) {
	doc := read(t, "docs/correctness.md")
	checkers := map[string]bool{}
	for _, m := range regexp.MustCompile(`violate\("([^"]+)"`).FindAllStringSubmatch(read(t, "internal/sim/*.go"), -1) {
		checkers[m[1]] = true
	}
	mutants := map[string]bool{}
	for _, r := range rules.All() {
		mutants[r.String()] = true
	}
	for _, known := range []map[string]bool{checkers, mutants} {
		for name := range known {
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("docs/correctness.md has nothing on %q", name)
			}
		}
	}
	model, tests := read(t, "docs/model/run.sh"), map[string]string{}
	named := 0
	for _, line := range strings.Split(doc, "\n") {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1) {
			var ok bool
			name := m[1]
			if dir, function, found := strings.Cut(name, "."); found {
				if tests[dir] == "" {
					tests[dir] = read(t, dir+"/*_test.go")
				}
				ok = strings.Contains(tests[dir], "\nfunc "+function+"(")
			} else {
				ok = checkers[name] || mutants[name] || strings.Contains(model, "-D"+name)
			}
			if named++; !ok {
				t.Errorf("docs/correctness.md names %q, which is nowhere", name)
			}
		}
	}
	if named < 100 {
		t.Errorf("%d names", named)
	}
}

// read is the content of all files of a pattern.
func read(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file is %s: %v", pattern, err)
	}
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}
