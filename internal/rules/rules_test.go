package rules_test

import (
	"strings"
	"testing"

	"cutbank/internal/rules"
)

func TestEveryRuleHasItsNameAndSentence(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules.All() {
		e := r.Entry()
		if got, err := rules.Parse(e.Name); err != nil || got != r {
			t.Errorf("%s reads as %v: %v", e.Name, got, err)
		}
		if seen[e.Name] || e.Name == "none" || !strings.HasSuffix(e.Text, ".") {
			t.Errorf("entry of %d: %+v", r, e)
		}
		seen[e.Name] = true
	}
	if len(seen) < 12 {
		t.Errorf("%d rules", len(seen))
	}
	if _, err := rules.Parse("none"); err == nil || !strings.Contains(err.Error(), "marker-overtaken") {
		t.Errorf("a bad name does not list the rules: %v", err)
	}
}
