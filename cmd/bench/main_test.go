package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test be the ceiling program's two processes, as the bench is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ceilingWord {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestBench: the rows that need nothing but the bank, tiny, give a table, its JSON and the curves.
// What the figures are is no matter here.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	branch := filepath.Join(dir, "branch")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", branch, "cutbank/cmd/branch").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	doc := filepath.Join(dir, "doc.md")
	if err := writeFile(doc, "before\n"+docBegin+"old\n"+docEnd+"after\n"); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), []string{
		"--branch", branch, "--dir", filepath.Join(dir, "data"), "--json", filepath.Join(dir, "bench.json"),
		"--svg", filepath.Join(dir, "scale.svg"), "--doc", doc,
		"--rows", "1,5,6,10", "--rounds", "1", "--span", "50ms", "--sizes", "2", "--scale", "2",
	}, &stdout, &stderr)
	if err != nil {
		t.Fatal(err, stderr.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got table
	if err := json.Unmarshal(text, &got); err != nil || len(got.Missing) > 0 {
		t.Fatal(err, got.Missing)
	}
	// On a busy machine a process may not run at all in so short a time, but not always that one.
	seen, measured := map[int]bool{}, false
	for _, f := range got.Figures {
		seen[f.Row] = true
		measured = measured || f.Row == 1 && f.Median > 0 && f.Ceiling > 0
		if !strings.Contains(stdout.String(), f.What) {
			t.Errorf("%q is not in the table", f.What)
		}
	}
	if !measured {
		t.Errorf("no throughput beside a ceiling: %+v", got.Figures)
	}
	for _, row := range []int{1, 5, 6, 10} {
		if !seen[row] {
			t.Errorf("no row %d", row)
		}
	}
	svg, _ := os.ReadFile(filepath.Join(dir, "scale.svg"))
	if n := bytes.Count(svg, []byte("<polyline")); n != 6 {
		t.Errorf("%d curves", n)
	}
	changed, _ := os.ReadFile(doc)
	if !bytes.HasPrefix(changed, []byte("before\n"+docBegin)) || !bytes.HasSuffix(changed, []byte(docEnd+"after\n")) || !bytes.Contains(changed, []byte("durable transfers")) {
		t.Errorf("the document: %s", changed)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "data")); len(left) > 0 {
		t.Errorf("left behind: %v", fmt.Sprint(left))
	}
}
