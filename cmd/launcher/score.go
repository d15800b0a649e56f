package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cutbank/internal/supervise"
)

// score counts restarts by cause, for the summary.
type score struct {
	causes  map[supervise.Cause]int
	longest time.Duration
}

func newScore() *score { return &score{causes: make(map[supervise.Cause]int)} }

// event notes an event and returns the line for people, or nothing when it is not worth one.
func (s *score) event(e supervise.Event, verbose bool) string {
	switch e.Kind {
	case supervise.EventExited:
		if e.Cause == supervise.InOrder {
			return ""
		}
		s.causes[e.Cause]++
	case supervise.EventReady:
		s.longest = max(s.longest, e.Down)
		if e.Down == 0 && !verbose {
			return ""
		}
	case supervise.EventStarted, supervise.EventHealthy, supervise.EventUnready, supervise.EventStopping, supervise.EventStopped, supervise.EventDelayed:
		if !verbose {
			return ""
		}
	default:
	}
	return e.String()
}

// String is the summary, after the last event.
func (s *score) String() string {
	if len(s.causes) == 0 {
		return "restarts: none"
	}
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(s.causes)) {
		parts = append(parts, fmt.Sprintf("%d × %s", s.causes[cause], cause))
	}
	return fmt.Sprintf("restarts: %s; longest recovery %s", strings.Join(parts, ", "), s.longest.Round(time.Millisecond))
}
