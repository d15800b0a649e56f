package foreign

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cutbank/internal/roster"
)

// maxBranches have 4,032 proxies, and twice as many descriptors.
const maxBranches = 64

// Commands gives each branch of the roster its command. A text is a command for all, or NAME=COMMAND
// for one. In the words of a command {name}, {port}, {ip} and {interval} (in milliseconds) stand for
// the branch's own.
func Commands(r roster.Roster, texts []string, interval time.Duration) ([][]string, error) {
	if n := len(r.Branches); n > maxBranches {
		return nil, fmt.Errorf("%s has %d branches: --branch-cmd takes %d at most, since each pair has proxies of its own", r.File, n, maxBranches)
	}
	var all string
	own := map[string]string{}
	for _, text := range texts {
		if name, command, ok := strings.Cut(text, "="); ok && r.Index(name) >= 0 {
			own[name] = command
		} else if all == "" {
			all = text
		} else {
			return nil, fmt.Errorf("--branch-cmd %q: there is one command for all branches already; write NAME=COMMAND for one of %s", text, r.File)
		}
	}
	commands := make([][]string, len(r.Branches))
	for i, b := range r.Branches {
		text, ok := own[b.Name]
		if !ok {
			text = all
		}
		words, err := split(text)
		if err == nil && len(words) == 0 {
			err = fmt.Errorf("no command for %s: write for example 'python3 mybranch.py {name} {port}'", b.Name)
		}
		if err == nil && !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "{port}") }) {
			err = errors.New("{port} is not in it: the branch has to be told where to listen")
		}
		if err != nil {
			return nil, fmt.Errorf("--branch-cmd %q: %w", text, err)
		}
		fill := strings.NewReplacer("{name}", b.Name, "{port}", strconv.Itoa(int(b.Port)), "{ip}", b.Host,
			"{interval}", strconv.FormatInt(interval.Milliseconds(), 10))
		for _, w := range words {
			commands[i] = append(commands[i], fill.Replace(w))
		}
	}
	return commands, nil
}

// split takes a command apart at blanks. Quotes, single or double, hold blanks together; nothing else
// is special: 'sh -c "…"' for whoever needs a shell.
func split(text string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	begun := false
	for _, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c has no end", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
