package cutbank_test

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCommands: each command that a document shows has subcommands and flags that the program's help has, each make
// target and variable is the Makefile's.
func TestCommands(t *testing.T) {
	help := map[string]string{}
	golden, head := readDocument(t, "cmd/testdata/script/golden_help.txtar"), regexp.MustCompile(`(?m)^-- (\w+)\.txt --\n`)
	for i, m := range head.FindAllStringSubmatch(golden, -1) {
		help[m[1]] = head.Split(golden, -1)[i+1]
	}
	help["launcher"] += help["show"]
	makefile := readDocument(t, "Makefile")
	all := help["launcher"] + help["branch"] + help["controller"] + help["sim"]
	seen := 0
	has := func(document, command, text, pattern string) {
		t.Helper()
		if seen++; !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s: %s: nothing is %s", document, command, pattern)
		}
	}
	flag := regexp.MustCompile(`(?:^|\s)(--[a-z][a-z-]*)`)
	program := regexp.MustCompile(`(?:\./|bin/)(launcher|branch|controller|sim)\b([^|;&#>]*)`)
	target := regexp.MustCompile(`(?:^|[;&] *)make ([a-z][a-z-]*)((?: [A-Z]+=)?)`)
	for _, document := range documents() {
		for _, code := range codeOf(readDocument(t, document)) {
			for _, m := range program.FindAllStringSubmatch(code, -1) {
				if words := strings.Fields(m[2]); len(words) > 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(words[0]) {
					has(document, m[0], help[m[1]], `\./`+m[1]+" "+words[0]+`\b`)
				}
				for _, f := range flag.FindAllStringSubmatch(m[2], -1) {
					has(document, m[0], help[m[1]]+"--help ", f[1]+`\b[^-]`)
				}
			}
			for _, m := range target.FindAllStringSubmatch(code, -1) {
				has(document, m[0], makefile, `(?m)^(?:[a-z-]+ )*`+m[1]+`(?: [a-z-]+)*:`)
				if m[2] != "" {
					has(document, m[0], makefile, `(?m)^`+strings.TrimSpace(m[2][:len(m[2])-1])+` \?=`)
				}
			}
			if f := flag.FindStringSubmatch(code); f != nil && strings.HasPrefix(code, "--") {
				has(document, code, all, f[1]+`\b[^-]`)
			}
		}
	}
	if len(help) != 5 || seen < 100 {
		t.Errorf("%d programs, %d commands", len(help), seen)
	}
}

// documents are all documents of the repository.
func documents() []string {
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/model/*.md"} {
		some, _ := filepath.Glob(pattern)
		all = append(all, some...)
	}
	return all
}

// codeOf is the code of a document: the lines of its blocks, continued ones joined, and what stands in
// backquotes; what is quoted in a command is left out, since it is for another program.
func codeOf(text string) (code []string) {
	quoted := regexp.MustCompile(`'[^'\n]*'|"[^"\n]*"`)
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			part = strings.ReplaceAll(part, "\\\n", " ")
			for line := range strings.Lines(quoted.ReplaceAllString(part, "…")) {
				code = append(code, strings.TrimPrefix(strings.TrimSpace(line), "$ "))
			}
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(part, -1) {
			code = append(code, quoted.ReplaceAllString(strings.ReplaceAll(m[1], "\n", " "), "…"))
		}
	}
	return code
}

// TestImports: a package imports only what stands below it in the table of ARCHITECTURE.md.
func TestImports(t *testing.T) {
	row := map[string]int{}
	for i, line := range strings.Split(readDocument(t, "ARCHITECTURE.md"), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`((?:internal|cmd|proto)/[a-z/]+)`").FindAllStringSubmatch(cells[1], -1) {
			row["cutbank/"+m[1]] = i
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./internal/...", "./cmd/...", "./proto/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		from, ok := row[words[0]]
		for _, to := range words[1:] {
			below, listed := row[to]
			if !ok || !listed || strings.HasPrefix(to, words[0]+"/") {
				continue
			}
			if imports++; below <= from && !strings.HasPrefix(words[0], to+"/") {
				t.Errorf("%s imports %s, which ARCHITECTURE.md lists above it", words[0], to)
			}
		}
	}
	if imports < 60 {
		t.Errorf("%d imports", imports)
	}
}

// TestExamplesAreTested: each file in examples/ has its name in a test.
func TestExamplesAreTested(t *testing.T) {
	var tests strings.Builder
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "__pycache__" || slices.Contains([]string{".git", "bin", "data", "dist"}, path)):
			return fs.SkipDir
		case strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, "_test.yml"):
			tests.WriteString(readDocument(t, path))
		case strings.HasPrefix(path, "examples/") && !d.IsDir() && !strings.HasPrefix(d.Name(), "go."):
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".py")
		if file != "examples/branches/go/main.go" && !strings.Contains(tests.String(), name) {
			t.Errorf("no test names %s", file)
		}
	}
}
