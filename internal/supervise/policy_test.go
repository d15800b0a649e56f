package supervise

import (
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	for _, test := range []struct {
		failures, early int
		want            verdict
	}{
		{1, 0, verdict{}},
		{1, 1, verdict{}},
		{2, 2, verdict{delay: 100 * time.Millisecond}},
		{3, 0, verdict{delay: 200 * time.Millisecond}},
		{4, 4, verdict{delay: 400 * time.Millisecond}},
		{5, 5, verdict{delay: time.Minute, failed: true}},
		{6, 0, verdict{delay: 1600 * time.Millisecond}},
		{9, 0, verdict{delay: 10 * time.Second}},
		{1000, 0, verdict{delay: 10 * time.Second}},
		{1000, 7, verdict{delay: time.Minute, failed: true}},
	} {
		if got := decide(test.failures, test.early); got != test.want {
			t.Errorf("decide(%d, %d) = %v, want %v", test.failures, test.early, got, test.want)
		}
	}
}
