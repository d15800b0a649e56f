package roster

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// reservedEndings are those of the files that stand beside the branches' directories.
func reservedEndings() []string {
	return []string{".json", ".jsonl", ".lock", ".sock", ".log"}
}

// CheckName says what is wrong with the name of a branch, and nil when nothing is: names are
// letters, digits, dot, dash and underscore, start with a letter or digit, have at most
// MaxNameBytes and none of the endings of cutbank's own files. So a name can never be a path.
func CheckName(name string) error {
	const rule = "use letters, digits, dot, dash and underscore, the first one a letter or digit"
	switch {
	case name == "":
		return errors.New("the name of the branch is empty: " + rule)
	case len(name) > MaxNameBytes:
		return fmt.Errorf("the name %s is longer than %d bytes: shorten it", shown(name), MaxNameBytes)
	case !isLetterOrDigit(name[0]):
		return fmt.Errorf("bad name %s: %s", shown(name), rule)
	}
	for i := range len(name) {
		if c := name[i]; !isLetterOrDigit(c) && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("bad name %s: %s", shown(name), rule)
		}
	}
	for _, ending := range reservedEndings() {
		if strings.HasSuffix(strings.ToLower(name), ending) {
			return fmt.Errorf("the name %s ends in %s, as cutbank's own files do: choose another", name, ending)
		}
	}
	return nil
}

func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil && isZone(ip.Zone()) && len(host) <= MaxHostBytes {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("%s is not an address that other branches can dial: "+
				"write 127.0.0.1, or the address of the branch's machine", host)
		}
		return nil
	}
	bad := fmt.Errorf("%s is neither an IP address nor a host name: write for example 127.0.0.1", shown(host))
	name := strings.TrimSuffix(host, ".")
	labels := strings.Split(name, ".")
	if len(host) > MaxHostBytes || allDigits(labels[len(labels)-1]) {
		return bad // the last label of a host name is never a number: this is a mistyped address
	}
	for _, label := range labels {
		if !isLabel(label) {
			return bad
		}
	}
	return nil
}

// isZone tells whether it may be the name of an interface, as in fe80::1%eth0.100; empty: there is none.
func isZone(zone string) bool {
	return !strings.ContainsFunc(zone, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isLabel tells whether it may stand between two dots of a host name. An underscore is not in the
// standard but in the names that container networks make.
func isLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		if c := label[i]; !isLetterOrDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// ParsePort reads a port from 1 to 65535. The error names what was written.
func ParsePort(text string) (uint16, error) {
	if !allDigits(text) {
		return 0, fmt.Errorf("port %s is not a whole number between 1 and 65535", shown(text))
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %s is not between 1 and 65535", clipped(text))
	}
	return uint16(port), nil
}

func isLetterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// allDigits tells whether the text is one decimal digit or more, with no sign and nothing else.
func allDigits(text string) bool {
	for i := range len(text) {
		if !isDigit(text[i]) {
			return false
		}
	}
	return text != ""
}

// shown is a field as a message quotes it: escaped, and not longer than a line can bear.
func shown(field string) string { return strconv.Quote(clipped(field)) }

func clipped(field string) string {
	if len(field) > shownBytes {
		return field[:shownBytes] + "..."
	}
	return field
}
