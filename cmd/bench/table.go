package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// table is what was measured.
type table struct {
	Machine string   `json:"machine"`
	Seconds float64  `json:"seconds"` // the whole run
	Figures []figure `json:"figures"`
	Missing []string `json:"missing"` // what could not be measured, and why
}

// figure is the median of some rounds. Ceiling is the median of the rounds' ratios to the ceiling
// program: rate to rate, time to the time of the same thing there.
type figure struct {
	Row     int       `json:"row"`
	What    string    `json:"what"`
	Unit    string    `json:"unit"` // /s, s, bytes, ratio, or none for a count
	Median  float64   `json:"median"`
	Rounds  []float64 `json:"rounds"`
	Ceiling float64   `json:"of_ceiling,omitempty"`
	CPU     float64   `json:"cpu_ns_per_transfer,omitempty"`
	Target  string    `json:"target,omitempty"`
	Met     *bool     `json:"met,omitempty"`
	Note    string    `json:"note,omitempty"`
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// series collects the rounds of a figure.
type series struct{ values, ratios, cpu []float64 }

func (s *series) add(value, ceiling, cpu float64) {
	s.values, s.cpu = append(s.values, value), append(s.cpu, cpu)
	if ceiling > 0 {
		s.ratios = append(s.ratios, value/ceiling)
	}
}

func (s *series) figure(row int, unit, what string) figure {
	return figure{
		Row: row, What: what, Unit: unit, Median: median(s.values), Rounds: s.values, Ceiling: median(s.ratios), CPU: median(s.cpu),
	}
}

// target says what was to be reached, and whether it was.
func (f figure) target(text string, met bool) figure {
	f.Target, f.Met = text, &met
	return f
}

func (t *table) add(f ...figure) { t.Figures = append(t.Figures, f...) }

func (t *table) print(w io.Writer) error {
	fmt.Fprintf(w, "%s; %.0f s\n\n", t.Machine, t.Seconds)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\twhat\tmedian\tleast … most\tof the ceiling\tCPU/transfer\ttarget\t")
	for _, f := range t.Figures {
		least, most := slices.Min(f.Rounds), slices.Max(f.Rounds)
		ceiling, cpu, target := "", "", f.Target
		if f.Ceiling > 0 {
			ceiling = fmt.Sprintf("%.2f", f.Ceiling)
		}
		if f.CPU > 0 {
			cpu = fmt.Sprintf("%.0f ns", f.CPU)
		}
		if f.Met != nil && *f.Met {
			target += " ✓"
		} else if f.Met != nil {
			target += " MISSED"
		}
		if f.Note != "" {
			target = f.Note + " " + target
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s … %s\t%s\t%s\t%s\t\n", f.Row, f.What,
			format(f.Median, f.Unit), format(least, f.Unit), format(most, f.Unit), ceiling, cpu, target)
	}
	for _, text := range t.Missing {
		fmt.Fprintf(tw, "\t%s\n", text)
	}
	return tw.Flush()
}

func format(v float64, unit string) string {
	switch {
	case unit == "/s" && v >= 1e6:
		return fmt.Sprintf("%.2f M/s", v/1e6)
	case unit == "/s" && v >= 1e3:
		return fmt.Sprintf("%.1f k/s", v/1e3)
	case unit == "/s":
		return fmt.Sprintf("%.0f /s", v)
	case unit == "s" && v >= 1:
		return fmt.Sprintf("%.1f s", v)
	case unit == "s":
		return fmt.Sprintf("%.2f ms", v*1e3)
	case unit == "bytes":
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	case unit == "ratio":
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// write makes the JSON; no path is none.
func (t *table) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(t, "", " ")
	if err != nil {
		return err
	}
	return writeFile(path, string(text)+"\n")
}

// The table of a document stands between these lines.
const docBegin, docEnd = "<!-- made by make bench-docs -->\n```\n", "```\n<!-- end -->\n"

// document replaces the table of a document; no path is none.
func (t *table) document(path string) error {
	if path == "" {
		return nil
	}
	old, err := os.ReadFile(path) //nolint:gosec // named by the user
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(old), docBegin)
	_, after, ok2 := strings.Cut(rest, docEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table", path)
	}
	var text strings.Builder
	if err := t.print(&text); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+docBegin+text.String()+docEnd+after), 0o644) //nolint:gosec // a document
}
