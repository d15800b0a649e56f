package foreign

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cutbank/internal/roster"
)

func TestCommands(t *testing.T) {
	r, err := roster.Parse("b.txt", []byte("one 127.0.0.1 9001\ntwo 127.0.0.2 9002\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		texts []string
		want  string // of the second branch, words between bars
		err   string
	}{
		{[]string{`python3  my.py {name} {port}`}, "python3|my.py|two|9002", ""},
		{[]string{`sh -c "exec ./b '{name}' {port} {interval}" ''`}, "sh|-c|exec ./b 'two' 9002 250|", ""},
		{[]string{`./a {port}`, `two=./b --at={ip}:{port}`}, "./b|--at=127.0.0.2:9002", ""},
		{[]string{`three=./b {port}`}, "three=./b|9002", ""}, // no such branch: a program with an odd name
		{[]string{`./a {port}`, `./b {port}`}, "", "one command for all branches already"},
		{[]string{`two=./b {port}`}, "", "no command for one"},
		{[]string{`./a {name}`}, "", "{port} is not in it"},
		{[]string{`./a '{port}`}, "", "a quote ' has no end"},
	} {
		got, err := Commands(r, test.texts, 250*time.Millisecond)
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: %v, want %q", test.texts, err, test.err)
			}
		case err != nil || !slices.Equal(got[1], strings.Split(test.want, "|")):
			t.Errorf("%q: %q, %v, want %q", test.texts, got, err, test.want)
		}
	}
	r.Branches = make([]roster.Branch, maxBranches)
	if _, err := Commands(r, []string{`./a {port}`}, 0); err != nil {
		t.Errorf("%d branches: %v", maxBranches, err)
	}
	r.Branches = append(r.Branches, roster.Branch{})
	if _, err := Commands(r, []string{`./a {port}`}, 0); err == nil || !strings.Contains(err.Error(), "takes 64 at most") {
		t.Errorf("one more: %v", err)
	}
}
