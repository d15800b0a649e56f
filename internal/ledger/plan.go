package ledger

import (
	"errors"
	"fmt"
	"slices"

	"cutbank/internal/rules"
)

// MaxBranches is the most branches that a bank may have.
const MaxBranches = 1024

// maxSnapshots is how many snapshot ids a plan must leave: one a millisecond for 30,000 years.
const maxSnapshots = 1 << 50

// BankID names a bank: 128 random bits, made when it is opened.
type BankID [16]byte

// Plan is what makes a bank: the same at each of its branches, journaled when it is opened, never
// changed after. A plain client of the assignment gives only names and the branch's own balance.
type Plan struct {
	BankID         BankID
	Key            []byte // 32 bytes, or empty: whoever reaches the port may talk
	Total          uint64 // 0: not known, opened by a plain client
	Names          []string
	Balances       []uint64 // by branch; those of others are 0 when opened by a plain client
	InTransit      []InTransit
	LastSnapshotID uint64     // ids of this bank are above it
	Broken         rules.Rule // that this bank does without; None
}

// InTransit is money that is on a channel when the bank is opened: after a restore.
type InTransit struct {
	Src, Dst int
	Money    uint64
}

// check returns the index of self, or what is wrong with the plan.
func (p *Plan) check(self string, addresses []string) (int, error) {
	i := slices.Index(p.Names, self)
	switch n := len(p.Names); {
	case i < 0:
		return 0, fmt.Errorf("this branch is %s, which is not in the roster %v", self, p.Names)
	case n < 2 || n > MaxBranches:
		return 0, fmt.Errorf("%d branches: a bank has 2 to %d", n, MaxBranches)
	case len(p.Balances) != n || len(addresses) != n:
		return 0, fmt.Errorf("%d balances and %d addresses for %d branches", len(p.Balances), len(addresses), n)
	case p.LastSnapshotID > MaxMoney-maxSnapshots:
		return 0, fmt.Errorf("last snapshot id %d leaves no room for others below 2^53", p.LastSnapshotID)
	case len(p.Key) != 0 && len(p.Key) != 32:
		return 0, fmt.Errorf("key of %d bytes: it has 32", len(p.Key))
	}
	sorted := slices.Sorted(slices.Values(p.Names))
	if len(slices.Compact(sorted)) != len(p.Names) {
		return 0, errors.New("a name stands twice in the roster")
	}
	return i, p.checkMoney()
}

func (p *Plan) checkMoney() error {
	var sum uint64
	add := func(m uint64) error {
		if m > MaxMoney || sum+m > MaxMoney {
			return fmt.Errorf("more money than 2^53-1")
		}
		sum += m
		return nil
	}
	for _, b := range p.Balances {
		if err := add(b); err != nil {
			return err
		}
	}
	for _, t := range p.InTransit {
		if n := len(p.Names); t.Src < 0 || t.Src >= n || t.Dst < 0 || t.Dst >= n || t.Src == t.Dst || t.Money == 0 {
			return fmt.Errorf("no such channel or no money: %d->%d: %d", t.Src, t.Dst, t.Money)
		}
		if err := add(t.Money); err != nil {
			return err
		}
	}
	if p.Total != 0 && sum != p.Total {
		return fmt.Errorf("balances and money in transit are %d, the total is %d", sum, p.Total)
	}
	return nil
}
