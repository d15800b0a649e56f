package cutbank_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocuments: what documents link to is there, README links all of docs/, and the packages that ARCHITECTURE.md lists are those that are.
func TestDocuments(t *testing.T) {
	readme := readDocument(t, "README.md")
	for _, document := range documents() {
		if strings.HasPrefix(document, "docs/") && !strings.Contains(readme, "]("+document+")") {
			t.Errorf("README.md does not link %s", document)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(readDocument(t, document), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
	text := readDocument(t, "ARCHITECTURE.md")
	dirs, _ := filepath.Glob("internal/*")
	for _, dir := range dirs {
		if dir != "internal/version" && !strings.Contains(text, "`"+dir+"`") {
			t.Errorf("ARCHITECTURE.md does not list %s", dir)
		}
	}
	for _, m := range regexp.MustCompile("`((?:internal|cmd)/\\w+)`").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("ARCHITECTURE.md: %v", err)
		}
	}
	states := regexp.MustCompile(`State += "(\w+)"`).FindAllStringSubmatch(readDocument(t, "internal/supervise/event.go"), -1)
	for _, m := range states {
		if !strings.Contains(readDocument(t, "docs/supervision.md"), "\n| "+m[1]+" |") {
			t.Errorf("docs/supervision.md has no state %s", m[1])
		}
	}
	if len(states) < 10 {
		t.Errorf("%d states", len(states))
	}
}
