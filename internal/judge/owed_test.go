package judge

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// story tells a judge of a bank of three, in which b0 is asked for snapshot 1, a second an event.
func story(events ...Event) Report {
	j := New([]string{"b0", "b1", "b2"}, 3000)
	all := []Event{}
	for i := range 3 {
		all = append(all, Event{Kind: Init, From: Controller, To: i, Balance: 1000})
	}
	for i, e := range append(append(all, Event{Kind: Snapshot, From: Controller, To: 0, ID: 1}), events...) {
		e.AtUS = int64(i) * 1e6
		j.Step(e)
	}
	return j.Report()
}

func of(kind Kind, from, to int) Event {
	e := Event{Kind: kind, Conn: 1 + min(from, to)*3 + max(from, to), From: from, To: to, ID: 1, Text: "10s"}
	e.Marker = kind == Sent || kind == Passed
	return e
}

func answer(from int, states ...uint64) Event {
	return Event{Kind: Answer, From: from, To: Controller, ID: 1, Balance: 1000, States: states}
}

// over is a marker from the one to the other.
func over(from, to int) []Event { return []Event{of(Sent, from, to), of(Passed, from, to)} }

// TestFaultless: who only suffers from what others do, from faults, or from the proxies, has broken nothing.
func TestFaultless(t *testing.T) {
	wait := slices.Repeat([]Event{{Kind: Frame, From: 0, To: 1}}, 40)
	retrieve := of(Retrieve, Controller, 1)
	markers := func(skip ...int) (all []Event) {
		for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 0}, {1, 2}, {2, 0}, {2, 1}} {
			if len(skip) == 0 || pair != [2]int(skip) {
				all = append(all, over(pair[0], pair[1])...)
			}
		}
		return all
	}
	pay := func(conn int) Event { return Event{Kind: Sent, Conn: conn, From: 1, To: 2, Money: 20} }
	missing := of(Missing, 1, Controller)
	later := []Event{ // a snapshot that b1 has answered, and one that began afterwards
		of(Sent, 1, 0), answer(1, 0, 0), {Kind: Snapshot, From: Controller, To: 1, ID: 2}, {Kind: Answer, From: 1, To: Controller, ID: 2, States: []uint64{0, 0}},
	}
	before := []Event{ // b1 had 1000 and was handed 20, and has 980 left: it has sent 40 at most
		{Kind: Passed, Conn: 2, From: 0, To: 1, Money: 20}, {Kind: Answer, From: 1, To: Controller, ID: 1, Balance: 980, States: []uint64{0, 0}},
	}
	for _, test := range []struct {
		name   string
		events []Event
		rule   Rule
		by     string // who has broken it; "": nobody
		why    string
	}{
		{"an answer is owed", slices.Concat(markers(), []Event{retrieve}, wait, []Event{missing}), Answers, "b1", ""},
		{"it comes late", slices.Concat(markers(), []Event{retrieve}, wait, []Event{missing, answer(1, 0, 0)}), Answers, "", "no answer was seen of b0, b2"},
		{"a marker was not sent", slices.Concat(markers(2, 1), []Event{retrieve}, wait, []Event{missing}), Answers, "b2", ""},
		{"it is on its way", slices.Concat(markers(2, 1), []Event{of(Sent, 2, 1), retrieve}, wait, []Event{missing}), Answers, "", ""},
		{"it came only now", slices.Concat(markers(2, 1), []Event{retrieve}, wait, over(2, 1), []Event{missing}), Answers, "", ""},
		{"it could not be sent before", slices.Concat(over(0, 1), []Event{retrieve}, wait, over(0, 2), []Event{missing}), Answers, "", ""},
		{"the receiver does not read", slices.Concat(markers(2, 1), []Event{{Kind: Sent, Conn: 6, From: 2, To: 1, Money: 20}, retrieve}, wait, []Event{missing}), Answers, "", ""},
		{"a third one does not read", slices.Concat(markers(2, 1), []Event{{Kind: Sent, Conn: 3, From: 2, To: 0, Money: 20}, retrieve}, wait, []Event{missing}), Answers, "", ""},
		{"nor lets it answer", slices.Concat(markers(), []Event{{Kind: Sent, Conn: 2, From: 1, To: 0, Money: 20}, retrieve}, wait, []Event{missing}), Answers, "", ""},
		{"it is paused", slices.Concat(markers(), []Event{retrieve, {Kind: Paused, From: 1, To: 1}}, wait, []Event{missing}), Answers, "", ""},

		{"one ends after another", []Event{of(Exited, 2, 2), of(Exited, 1, 1)}, Runs, "b2", ""},
		{"one ends after a kill", []Event{of(Killed, 2, 2), of(Exited, 1, 1)}, Runs, "", "which may have caused it"},
		{"it comes back without memory", []Event{of(Killed, 1, 1), answer(1)}, Order, "", ""},

		{"two connections", []Event{pay(1), pay(2)}, Connection, "b1", ""},
		{"another one after a pause", []Event{pay(1), of(Paused, 0, 0), pay(2)}, Connection, "", ""},
		{"another one after the proxies stood still", []Event{pay(1), of(Paused, Controller, Controller), pay(2)}, Connection, "", ""},
		{"what was under way is sent again", slices.Concat(over(1, 2), []Event{of(Paused, 0, 0), pay(99), of(Sent, 1, 2)}), Markers, "", ""},

		{"a marker left out", append(later, Event{Kind: Sent, Conn: 6, From: 1, To: 2, Marker: true, ID: 2}), Markers, "b1", ""},
		{"a marker not read yet", later, Markers, "", ""},
		{"no marker ahead of what can't have been sent before", slices.Concat(before, []Event{pay(6), pay(6), pay(6)}), Markers, "b1", ""},
		{"what can have been sent before", slices.Concat(before, []Event{pay(6), pay(6)}), Markers, "", ""},
		{"sent after a fault", slices.Concat(before, []Event{of(Killed, 0, 0), pay(6), pay(6), pay(6)}), Markers, "", ""},
		{"it has what it was handed", slices.Concat([]Event{{Kind: Passed, Conn: 1, From: 0, To: 1, Money: math.MaxUint64}}, slices.Repeat([]Event{pay(6)}, 60)), Negative, "", ""},
	} {
		f := story(test.events...).Rules[test.rule]
		if got := strings.Join(f.By, " "); got != test.by || (f.Verdict == Broken) != (test.by != "") || !strings.Contains(f.Why, test.why) {
			t.Errorf("%s: %s is %s by %q, want %q; %s %v", test.name, test.rule.Name(), f.Verdict, got, test.by, f.Why, f.Evidence)
		}
	}
}
