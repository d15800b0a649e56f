package roster

import (
	"fmt"
	"strconv"
	"strings"
)

// Amount of a transfer: a random whole number from Low to High, at least 1. With Percent they are
// hundredths of the balance that the branch had when the bank was opened.
type Amount struct {
	Low, High uint64
	Percent   bool
}

// ParseAmount reads "1", "1-10" or "1%-5%".
func ParseAmount(s string) (Amount, error) {
	low, high, ranged := strings.Cut(s, "-")
	if !ranged {
		high = low
	}
	l, lp := strings.CutSuffix(low, "%")
	h, hp := strings.CutSuffix(high, "%")
	a := Amount{Percent: lp}
	var err1, err2 error
	a.Low, err1 = strconv.ParseUint(l, 10, 53)
	a.High, err2 = strconv.ParseUint(h, 10, 53)
	switch {
	case err1 != nil || err2 != nil || lp != hp:
		return a, fmt.Errorf("amount %q is neither a number (1), a range (1-10) nor a share of the first balance (1%%-5%%)", s)
	case a.Low == 0 || a.Low > a.High:
		return a, fmt.Errorf("amount %q: the lower bound is at least 1 and at most the upper", s)
	case a.Percent && a.High > 100:
		return a, fmt.Errorf("amount %q is more than 100%%", s)
	}
	return a, nil
}

// Bounds in money, of a branch that began with share.
func (a Amount) Bounds(share uint64) (low, high uint64) {
	if !a.Percent {
		return a.Low, a.High
	}
	part := func(percent uint64) uint64 { return max(1, share/100*percent+share%100*percent/100) }
	return part(a.Low), part(a.High)
}
