package cutbank_test

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLimits: the table of docs/limits.md has the values that the constants have, and names tests and flags
// that exist.
func TestLimits(t *testing.T) {
	text := readDocument(t, "docs/limits.md")
	tests := map[string]bool{}
	for _, path := range sources(t, "_test.go") {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(readDocument(t, path), -1) {
			tests[m[1]] = true
		}
	}
	known, rows := constants{}, 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.Contains(cells[2], "`") {
			continue
		}
		rows++
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		path, name, _ := cutLast(strings.Trim(cells[2], "`"), ".")
		if !strings.Contains(path, "/") {
			path = "internal/" + path
		}
		value, ok := known.value(t, path, name)
		if want := amount(t, cells[1]); !ok || !constant.Compare(value, token.EQL, want) {
			t.Errorf("%s is %v in the source, %s in docs/limits.md", cells[2], value, cells[1])
		}
		if flag := strings.Trim(cells[3], "`"); flag != "" && !strings.Contains(allFlags(t), "\""+strings.TrimPrefix(flag, "--")+"\"") {
			t.Errorf("%s: there is no flag %s", cells[2], flag)
		}
		if !tests[cells[4]] {
			t.Errorf("%s: there is no test %s", cells[2], cells[4])
		}
	}
	if rows < 40 {
		t.Errorf("only %d rows", rows)
	}
}

// allFlags is the source that defines flags.
func allFlags(t *testing.T) (text string) {
	t.Helper()
	for _, path := range sources(t, ".go") {
		if !strings.HasSuffix(path, "_test.go") && (strings.HasPrefix(path, "cmd/") || strings.HasSuffix(path, "flags.go")) {
			text += readDocument(t, path)
		}
	}
	return text
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// amount reads what the table has: 64 KiB, 10 s, 1,024, 2^53 − 1.
func amount(t *testing.T, text string) constant.Value {
	t.Helper()
	m := regexp.MustCompile(`^(?:2\^(\d+)( − 1)?|([\d,]+)(?: (\S+))?)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is no value", text)
	}
	units := map[string]int64{
		"": 1, "KiB": 1 << 10, "MiB": 1 << 20,
		"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute),
	}
	if m[1] != "" {
		bits, _ := strconv.Atoi(m[1])
		n := int64(1) << bits
		if m[2] != "" {
			n--
		}
		return constant.MakeInt64(n)
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(m[3], ",", ""), 10, 64)
	if err != nil || units[m[4]] == 0 {
		t.Fatalf("%q is no value", text)
	}
	return constant.MakeInt64(n * units[m[4]])
}

// constants are those of packages, by directory and name, as they stand in the source.
type constants map[string]map[string]ast.Expr

func (c constants) value(t *testing.T, dir, name string) (constant.Value, bool) {
	t.Helper()
	if c[dir] == nil {
		c[dir] = map[string]ast.Expr{}
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if spec, ok := n.(*ast.ValueSpec); ok {
					for i, id := range spec.Names {
						if i < len(spec.Values) {
							c[dir][id.Name] = spec.Values[i]
						}
					}
				}
				return true
			})
		}
	}
	e := c[dir][name]
	if e == nil {
		return constant.MakeUnknown(), false
	}
	return c.eval(t, dir, e), true
}

func (c constants) eval(t *testing.T, dir string, e ast.Expr) constant.Value {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return c.eval(t, dir, e.X)
	case *ast.Ident:
		v, _ := c.value(t, dir, e.Name)
		return v
	case *ast.SelectorExpr:
		pkg, _ := e.X.(*ast.Ident)
		if pkg != nil && pkg.Name == "time" {
			unit, _ := time.ParseDuration(map[string]string{"Millisecond": "1ms", "Second": "1s", "Minute": "1m"}[e.Sel.Name])
			return constant.MakeInt64(int64(unit))
		}
		v, _ := c.value(t, "internal/"+pkg.Name, e.Sel.Name)
		return v
	case *ast.BinaryExpr:
		x, y := c.eval(t, dir, e.X), c.eval(t, dir, e.Y)
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(n))
		}
		return constant.BinaryOp(x, e.Op, y)
	}
	return constant.MakeUnknown()
}

// sources are the files of the module whose names end so.
func sources(t *testing.T, suffix string) (list []string) {
	t.Helper()
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, suffix) {
				list = append(list, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func readDocument(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
