package roster

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// MaxTotal is the most money that a bank can hold: the largest whole number up to which readers of
// JSON hold every one exactly.
const MaxTotal = 1<<53 - 1

// ParseTotal reads the money of a bank of so many branches: a whole number from branches to
// MaxTotal, so that every branch has at least one. The error names what was written and what to
// write.
//
// A program that takes `<total> <file>` calls it once with MinBranches before it loads the file:
// swapped arguments are then called what they are.
func ParseTotal(text string, branches int) (uint64, error) {
	if !allDigits(text) {
		return 0, fmt.Errorf("total %s is not a whole number from %d to %d: "+
			"write for example 4000, first the total and then the file of branches", shown(text), branches, uint64(MaxTotal))
	}
	total, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil || total > MaxTotal:
		return 0, fmt.Errorf("total %s is more than %d, the most that a bank can hold", clipped(text), uint64(MaxTotal))
	case total < uint64(branches): //nolint:gosec // a number of branches
		return 0, fmt.Errorf("total %d is less than 1 for each of %d branches: write at least %d", total, branches, branches)
	}
	return total, nil
}

// Shares splits the total over n branches, in file order: evenly, and one unit more for each of the
// first total mod n, so that no unit is lost. Nil when n is not positive.
func Shares(total uint64, n int) []uint64 {
	if n <= 0 {
		return nil
	}
	share, rest := total/uint64(n), total%uint64(n)
	shares := make([]uint64, n)
	for i := range shares {
		shares[i] = share
		if uint64(i) < rest {
			shares[i]++
		}
	}
	return shares
}

// DataDir is the launcher's default data directory for a roster file and a total, relative to the
// current directory: another total or another file is simply another bank.
func DataDir(file string, total uint64) string {
	return filepath.Join("data", bankName(file, total))
}

// ControllerDataDir is the default data directory of a controller that runs without launcher.
func ControllerDataDir(file string, total uint64) string {
	return filepath.Join("data", "controller-"+bankName(file, total))
}

func bankName(file string, total uint64) string {
	return fmt.Sprintf("%s-%d", strings.TrimSpace(filepath.Base(file)), total)
}
