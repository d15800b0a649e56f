package branch

import (
	"context"
	"testing"

	"cutbank/internal/link"
)

// TestDeliver: when a branch ends while a reader delivers, what the loop still finds is the beginning of what the
// reader had. A hole would number all that comes after it wrongly.
func TestDeliver(t *testing.T) {
	for stop := range uint64(60) {
		b := &Branch{deliveries: make(chan link.Delivery, 8)}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for n := range uint64(200) {
				b.deliver(ctx, link.Delivery{Ack: n + 1})
			}
			close(b.deliveries)
		}()
		last := uint64(0)
		for d := range b.deliveries {
			if d.Ack != last+1 {
				t.Fatalf("stopped after %d: %d follows %d", stop, d.Ack, last)
			}
			if last = d.Ack; last == stop {
				cancel()
			}
		}
		cancel()
	}
}
