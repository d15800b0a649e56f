package supervise

import "time"

// The restart policy. Beside it, what others do by default:
//
//	           delay                         gives up
//	OTP        none                          all children, at 2 failures in 5 s
//	systemd    100 ms                        after 5 starts in 10 s
//	Nomad      15 s                          never: it waits out the rest of the interval, after 2 in 30 min
//	cutbank    none, then 100 ms × 2^n,      after 5 starts in a row that never became ready;
//	           full jitter, at most 10 s     then tries every 60 s
//
// A kill -9 from outside is nothing that the child did: however often it comes, it is no start in vain
// and the delay stays at 100 ms at most.
const (
	baseDelay   = 100 * time.Millisecond
	maxDelay    = 10 * time.Second
	forgetAfter = 30 * time.Second // of health: then the next failure is the first one
	earlyBudget = 5                // exits in a row before ready
	retryFailed = 60 * time.Second
)

// verdict is what to do after an exit.
type verdict struct {
	delay  time.Duration // full: the caller takes a random part of it
	failed bool          // shown as failed and tried again after delay
}

// decide is the policy: a pure function of the exits since the last long health (failures), and of
// how many of the last ones in a row came before the child was ready (early).
func decide(failures, early int) verdict {
	if early >= earlyBudget {
		return verdict{delay: retryFailed, failed: true}
	}
	if failures <= 1 {
		return verdict{}
	}
	shift := min(failures-2, 10)
	return verdict{delay: min(baseDelay<<shift, maxDelay)}
}
