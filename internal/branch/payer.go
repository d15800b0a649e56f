package branch

import (
	"math/rand/v2"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/roster"
)

// DefaultAmount is the assignment's.
var DefaultAmount = roster.Amount{Low: 1, High: 5, Percent: true} //nolint:gochecknoglobals // a constant

// payer makes the random choices: whom to pay, how much, when.
type payer struct {
	random   *rand.Rand
	interval time.Duration // longest wait between two transfers; 0: as fast as it can
	amount   roster.Amount
	stopped  bool
	nextID   func() uint64 // nil: transfers have no names

	due     time.Time // of the next transfer, when there is an interval
	pace    pace
	latest  int  // whom the last transfer paid
	decided bool // it was made since the loop has looked
}

// wait is the random time before the next transfer.
func (p *payer) wait() time.Duration { return time.Duration(p.random.Int64N(int64(p.interval) + 1)) }

// maxArrears bounds the transfers that are made up for after the process was held up.
const maxArrears = 10 * time.Millisecond

// payDue makes the transfers that have come due, and returns the time to the next. A turn when the
// branch is short of money, or the window full, is skipped.
func (p *payer) payDue(l *ledger.Ledger, out *ledger.Output, now time.Time) time.Duration {
	if now.Sub(p.due) > maxArrears {
		p.due = now
	}
	low, high := p.amount.Bounds(l.Plan().Balances[l.Self()])
	for !p.due.After(now) && len(out.Persist) < maxBatch {
		p.transfer(l, out, low+p.random.Uint64N(high-low+1))
		p.due = p.due.Add(p.wait())
	}
	return p.due.Sub(now)
}

// burstBytes is how much of a batch payments may fill at interval 0.
const burstBytes = 32 << 10

// burst makes transfers until windows are full, money is short, or the batch has enough.
func (p *payer) burst(l *ledger.Ledger, out *ledger.Output) {
	low, high := p.amount.Bounds(l.Plan().Balances[l.Self()])
	for len(out.Persist) < burstBytes {
		top := min(high, l.Balance())
		if top < low {
			return
		}
		money := low
		if top > low {
			money += p.random.Uint64N(top - low + 1)
		}
		if !p.transfer(l, out, money) {
			return
		}
	}
}

// transfer pays a random other branch; when its window is full, the next that has room.
func (p *payer) transfer(l *ledger.Ledger, out *ledger.Output, money uint64) bool {
	var id uint64
	if p.nextID != nil {
		id = p.nextID()
	}
	n, self := len(l.Plan().Names), l.Self()
	to := p.random.IntN(n - 1)
	if to >= self {
		to++
	}
	for range n {
		if to != self {
			switch err := l.Transfer(out, to, money, id, p.pace.window); err {
			case nil:
				p.latest, p.decided = to, true
				return true
			case ledger.ErrWindow: //nolint:errorlint // Transfer's own, never wrapped
				p.pace.full = true
			default:
				return false
			}
		}
		if to++; to == n {
			to = 0
		}
	}
	return false
}
