package judge

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Rule of the assignment.
type Rule int

// The rules, in the order of the report.
const (
	Framing Rule = iota
	Start
	Connection
	FIFO
	Amount
	Negative
	Markers
	FirstMarker
	ChannelState
	Books
	Order
	IDs
	Answers
	Sum
	Runs
	numRules
)

// Name is the rule in a word, as --json has it.
func (r Rule) Name() string {
	return [...]string{
		"framing", "start", "connection", "fifo", "amount", "negative", "markers", "first-marker", "channel-state",
		"books", "order", "ids", "answers", "sum", "runs",
	}[r]
}

// String is the rule for people.
func (r Rule) String() string {
	return [...]string{
		"each message is a BranchMessage behind its length, an unsigned varint",
		"transfers only after initialisation",
		"one TCP connection per pair, used in both directions",
		"each channel is FIFO",
		"a transfer is 1 % to 5 % of the initial balance, at least 1",
		"no balance is ever negative",
		"a marker on every channel, once, before any later transfer",
		"first marker: record, its channel is empty, then send markers",
		"a channel's state is the money between the recording and its marker",
		"balance and channels are what was received and not sent before the cut",
		"channel_state in file order, zeros included, itself left out",
		"ids are those of the controller's snapshots",
		"every RetrieveSnapshot is answered",
		"balances and money in transit are the total",
		"the branch runs until it is stopped",
	}[r]
}

// Verdicts.
const (
	Kept    = "kept"
	Broken  = "broken"
	NotSeen = "not seen"
)

// Schema of a Report; the number changes only when old readers would break.
const Schema = "cutbank.report/1"

// Report is what was found.
type Report struct {
	Schema    string    `json:"schema"`
	Verdict   string    `json:"verdict"` // broken when a rule is; kept when all are; else not seen
	Total     uint64    `json:"total"`
	Branches  []string  `json:"branches"`
	Snapshots int       `json:"snapshots"` // complete ones
	Rules     []Finding `json:"rules"`
	Notes     []string  `json:"notes,omitempty"`
}

// Finding is the verdict on a rule.
type Finding struct {
	Rule     string    `json:"rule"`
	Text     string    `json:"text"`
	Verdict  string    `json:"verdict"`
	Checks   int       `json:"checks"`             // times that it was seen to be kept
	Times    int       `json:"broken"`             // times that it was seen to be broken
	By       []string  `json:"by,omitempty"`       // who broke it
	Evidence *Evidence `json:"evidence,omitempty"` // of the first time
	Why      string    `json:"why,omitempty"`      // of not seen
}

// Evidence is where a rule was seen to be broken first.
type Evidence struct {
	AtUS    int64  `json:"at_us"` // microseconds since the run began
	Channel string `json:"channel"`
	Message string `json:"message"`
}

// String is one line.
func (e Evidence) String() string { return at(e.AtUS) + " " + e.Channel + ": " + e.Message }

// finding is what is known of a rule so far.
type finding struct {
	checks, broken int
	first          Evidence
	by             []int
}

func (j *Judge) kept(r Rule) { j.rules[r].checks++ }

// keptBy is for rules that each branch has to show by itself.
func (j *Judge) keptBy(i int, r Rule) {
	j.kept(r)
	if i >= 0 {
		j.branches[i].seen[r] = true
	}
}

// unseen says which branches have not shown a rule that each has to show.
func (j *Judge) unseen(why map[Rule]string) {
	for rule, what := range map[Rule]string{
		Framing: "no message was read from ", Start: "no transfer was seen of ", Amount: "no transfer was seen of ",
		Negative: "no transfer was seen of ", Answers: "no answer was seen of ",
	} {
		var silent []string
		for i, b := range j.branches {
			if !b.seen[rule] {
				silent = append(silent, j.names[i])
			}
		}
		if len(silent) > 0 && j.rules[rule].checks > 0 {
			why[rule] = what + strings.Join(silent, ", ")
		}
	}
}

func (j *Judge) broken(r Rule, e Event, text string) {
	f := &j.rules[r]
	f.broken++
	if f.broken == 1 {
		f.first = Evidence{AtUS: e.AtUS, Channel: j.arrow(e.From, e.To), Message: text}
	}
	by := e.From
	if e.Kind == Answer && e.To >= 0 && (r == ChannelState || r == FirstMarker) {
		by = e.To // the channel is the evidence, its receiver reported it
	}
	if by >= 0 && !slices.Contains(f.by, by) {
		f.by = append(f.by, by)
	}
}

func (j *Judge) name(i int) string {
	if i < 0 {
		return "controller"
	}
	return j.names[i]
}

// arrow is a channel, or one branch or the controller.
func (j *Judge) arrow(from, to int) string {
	if from == to {
		return j.name(from)
	}
	return j.name(from) + "->" + j.name(to)
}

// Report is the end of the fold: call it once, when everything that was sent has been seen.
func (j *Judge) Report() Report {
	j.missingMarkers()
	why := j.mismatches()
	j.missingAnswers(why)
	n := len(j.names)
	if j.rules[Runs].broken == 0 && j.branches[0].initAt != 0 {
		j.rules[Runs].checks = n
	}
	if j.endedToo {
		why[Runs] = "a branch ended by itself after a fault, which may have caused it"
	}
	for _, p := range j.pairs {
		if len(p.conns) == 1 {
			j.kept(Connection)
		} else if j.pauses {
			why[Connection] = "a pause may have cost a connection"
		}
	}
	if seen := len(j.pairs); seen < n*(n-1)/2 && j.rules[Connection].broken == 0 {
		j.rules[Connection].checks = 0
		why[Connection] = fmt.Sprintf("transfers or markers passed between %d of %d pairs", seen, n*(n-1)/2)
	}
	j.fifo(why)
	j.unseen(why)
	r := Report{Schema: Schema, Verdict: Kept, Total: j.total, Branches: j.names, Snapshots: j.complete, Notes: j.notes}
	for rule := range numRules {
		r.Rules = append(r.Rules, j.finding(rule, why[rule]))
	}
	switch {
	case len(r.Broken()) > 0:
		r.Verdict = Broken
	case len(r.NotSeen()) > 0:
		r.Verdict = NotSeen
	}
	return r
}

func (j *Judge) finding(rule Rule, why string) Finding {
	f := j.rules[rule]
	out := Finding{Rule: rule.Name(), Text: rule.String(), Verdict: NotSeen, Checks: f.checks, Times: f.broken}
	switch {
	case f.broken > 0:
		out.Verdict, out.Evidence = Broken, &f.first
		slices.Sort(f.by)
		for _, i := range f.by {
			out.By = append(out.By, j.names[i])
		}
	case f.checks > 0 && why == "":
		out.Verdict = Kept
	case why != "":
		out.Why = why
	case j.rules[Framing].checks == 0:
		out.Why = "no message could be read"
	case j.faultAt != "":
		out.Why = "nothing to judge before " + j.faultAt
	case (rule == Order || rule == ChannelState) && j.complete > 0:
		out.Why = "no snapshot had money on its way on channels whose order is known"
	case rule >= Markers && j.complete == 0:
		out.Why = "no snapshot was complete"
	default:
		out.Why = "nothing that shows it"
	}
	return out
}

// enoughToTell mismatches that late markers all explain are no accident.
const enoughToTell = 4

// mismatches puts the answers that are not what passed under the rule that explains all of them. A
// late marker can't be told from a wrong balance by one of them.
func (j *Judge) mismatches() map[Rule]string {
	why := map[Rule]string{}
	for _, m := range j.notEmpty {
		if m.order && j.reordered {
			why[FirstMarker] = "the channel states are in another order, in which the first may be empty"
		} else {
			j.broken(FirstMarker, m.e, m.text)
		}
	}
	if len(j.mismatch) == 0 {
		return why
	}
	late, twice := len(j.mismatch) >= enoughToTell, len(j.mismatch) > 1
	for _, m := range j.mismatch {
		late, twice = late && m.marker != "", twice && m.twice
	}
	for _, m := range j.mismatch {
		switch {
		case twice:
			j.broken(Books, m.e, m.text+": as much as is on the channels: it is counted in the balance and on the channel")
		case late:
			j.broken(Markers, m.e, m.marker)
		default:
			j.broken(Books, m.e, m.text+": the balance is not that of the recording, a marker came late, or messages left in another order than they were made")
		}
	}
	if late && !twice {
		why[Books] = "the markers are late: what was sent before the cut is not known"
	} else if j.rules[Markers].broken == 0 {
		why[Markers] = "the balances are wrong: a marker that is late would not show"
	}
	return why
}

// fifo: a channel on one connection has the order of TCP, and the books tell whether messages were
// put there in the order in which they were made.
func (j *Judge) fifo(why map[Rule]string) {
	for _, row := range j.channels {
		for _, c := range row {
			switch {
			case c.many:
				for _, rule := range []Rule{FIFO, Markers, FirstMarker, ChannelState, Books} {
					why[rule] = "a channel that uses more than one connection has no order"
				}
			case c.conn != 0:
				j.kept(FIFO)
			}
		}
	}
	switch {
	case why[FIFO] != "": // several connections
	case len(j.mismatch) > 0:
		why[FIFO] = "the books are wrong, which another order may have caused"
	case j.rules[Books].checks == 0:
		why[FIFO] = "no snapshot to show that messages leave in the order in which they are made"
	}
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	count := map[string]int{}
	for _, f := range r.Rules {
		count[f.Verdict]++
		mark := map[string]string{Kept: "✓", Broken: "✗", NotSeen: "–"}[f.Verdict]
		fmt.Fprintf(&b, "%s %-8s  %-13s  %s", mark, f.Verdict, f.Rule, f.Text)
		switch {
		case f.Verdict == Kept:
			fmt.Fprintf(&b, " (%d times)\n", f.Checks)
		case f.Evidence != nil:
			times := ""
			if f.Times > 1 {
				times = fmt.Sprintf("; %d times in all", f.Times)
			}
			fmt.Fprintf(&b, "\n             first at %s%s\n", f.Evidence, times)
		case f.Why != "":
			fmt.Fprintf(&b, ": %s\n", f.Why)
		default:
			b.WriteByte('\n')
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	fmt.Fprintf(&b, "%d rules kept, %d broken, %d not seen, in %d snapshots", count[Kept], count[Broken], count[NotSeen], r.Snapshots)
	if r.Verdict == NotSeen {
		b.WriteString(": too little was seen to call the branches right")
	}
	b.WriteByte('\n')
	return b.String()
}

func message(e Event) string {
	if e.Marker {
		return "Marker " + number(e.ID)
	}
	return "Transfer of " + number(e.Money)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// at is a time of the run, in seconds.
func at(us int64) string { return strconv.FormatFloat(float64(us)/1e6, 'f', 3, 64) + " s" }

// Broken are the names of the rules that are.
func (r Report) Broken() []string { return r.with(Broken) }

// NotSeen are the names of the rules of which nothing can be told.
func (r Report) NotSeen() []string { return r.with(NotSeen) }

func (r Report) with(verdict string) (names []string) {
	for _, f := range r.Rules {
		if f.Verdict == verdict {
			names = append(names, f.Rule)
		}
	}
	return names
}
