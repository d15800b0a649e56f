package main

import (
	"fmt"
	"html"
	"strings"

	"cutbank/internal/controller"
	"cutbank/internal/record"
)

// drawSVG is the space-time diagram of a snapshot: a line for each branch, time to the right, messages as
// arrows from their send to their receive, those that cross the cut marked, markers dashed, and the cut
// through all recordings. It is readable on white and on black.
func drawSVG(r *controller.Record, names []string, events []record.Drawn) string {
	const width, left, right, top, row = 960.0, 90.0, 30.0, 70.0, 64.0
	from, to := window(events, r.SnapshotID)
	x := func(at record.Time) float64 {
		return left + (width-left-right)*float64(at-from)/float64(max(1, to-from))
	}
	y := map[string]float64{}
	for i, n := range names {
		y[n] = top + row*float64(i)
	}
	height := top + row*float64(len(names))
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="system-ui, sans-serif" font-size="13" role="img">
<title>%s</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
<text x="%g" y="28" font-size="16" font-weight="600" fill="#808890">%s</text>
`, width, height, html.EscapeString(r.Line()), 16.0, html.EscapeString(r.Line()))
	for _, n := range names {
		fmt.Fprintf(&b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="#808890"/><text x="16" y="%g" fill="#808890">%s</text>`+"\n",
			left, y[n], width-right, y[n], y[n]+4, html.EscapeString(n))
	}
	drawDown(&b, events, x, y, to)
	sends := map[string]*record.Drawn{}
	var cut []string
	label := ""
	for i := range events {
		d := &events[i]
		if d.At < from || d.At > to && d.Kind != record.Receive {
			continue
		}
		key := fmt.Sprint(d.Src(), " ", d.Dst(), d.N)
		switch d.Kind {
		case record.Send, record.MarkerSent:
			sends[key] = d
		case record.Receive, record.MarkerReceived:
			s := sends[key]
			if s == nil {
				continue
			}
			style := `stroke="#5b8def" stroke-opacity="0.55"`
			if d.Kind == record.MarkerReceived {
				if d.SnapshotID != r.SnapshotID {
					continue
				}
				style = `stroke="#808890" stroke-dasharray="3 4"`
			}
			if d.Crosses {
				style = `stroke="#e8590c" stroke-width="2.5"`
				label += fmt.Sprintf(`<text x="%.1f" y="%.1f" fill="#e8590c" font-weight="600">%d</text>`+"\n",
					(x(s.At)+x(d.At))/2+5, (y[s.Branch]+y[d.Branch])/2, d.Money)
			}
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" %s marker-end="url(#head)"/>`+"\n", x(s.At), y[s.Branch], x(d.At), y[d.Branch], style)
		case record.Recorded:
			if d.SnapshotID == r.SnapshotID {
				label += fmt.Sprintf(`<circle cx="%.1f" cy="%g" r="5" fill="#2f9e44"/><text x="%.1f" y="%g" fill="#2f9e44" font-weight="600">%d</text>`+"\n",
					x(d.At), y[d.Branch], x(d.At)+8, y[d.Branch]-8, d.Balance)
			}
		}
	}
	for _, n := range names {
		for i := range events {
			if d := &events[i]; d.Branch == n && d.Kind == record.Recorded && d.SnapshotID == r.SnapshotID {
				cut = append(cut, fmt.Sprintf("%.1f,%g", x(d.At), y[n]))
			}
		}
	}
	fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#2f9e44" stroke-width="2.5"/>`+"\n", strings.Join(cut, " "))
	return b.String() + label + "</svg>\n"
}

// window is the time that is drawn: from a little before the first recording, or the crash before it, to
// the last marker.
func window(events []record.Drawn, id uint64) (from, to record.Time) {
	began := cutBegins(events, id)
	from, to = events[began].At, events[began].At
	for i := range events {
		d := &events[i]
		if d.SnapshotID == id || d.Crosses {
			from, to = min(from, d.At), max(to, d.At)
		}
	}
	margin := (to - from) / 6
	from, to = from-margin, to+margin
	for i := range events[:began] { // a crash shortly before
		if d := &events[i]; (d.Kind == record.Crash || d.Kind == record.Recovered) && from-d.At < to-from {
			from = min(from, d.At-margin/2)
		}
	}
	return from, to
}

// drawDown draws where a branch was down.
func drawDown(b *strings.Builder, events []record.Drawn, x func(record.Time) float64, y map[string]float64, end record.Time) {
	for i := range events {
		d := &events[i]
		if d.Kind != record.Crash {
			continue
		}
		to := end
		for j := range events[i:] {
			if e := &events[i+j]; e.Branch == d.Branch && e.Kind == record.Recovered {
				to = e.At
				break
			}
		}
		fmt.Fprintf(b, `<rect x="%.1f" y="%g" width="%.1f" height="20" fill="#e03131" fill-opacity="0.35"/><text x="%.1f" y="%g" fill="#e03131">kill -9</text>`+"\n",
			x(d.At), y[d.Branch]-10, max(2, x(to)-x(d.At)), x(d.At), y[d.Branch]+26)
	}
}
