package link_test

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cutbank/internal/link"
)

// TestDialsAtATime: a branch dials eight peers at a time, and does not wait long for those that hang. It can
// be stopped while others wait for their turn.
func TestDialsAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		m := link.NewMesh(link.Config{
			Failed: func(string, error) {},
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		const peers = 30
		m.Start(identity(peers, func(id *link.Identity) {
			id.Names = nil
			for i := range peers + 1 {
				id.Names = append(id.Names, strconv.Itoa(i))
			}
		}), make([]string, peers+1))
		for i, want := range []int64{8, 16, 24} {
			time.Sleep(min(time.Duration(i), 1) * 250 * time.Millisecond)
			synctest.Wait()
			if n := dials.Load(); n != want {
				t.Errorf("%d dials, want %d", n, want)
			}
		}
		m.Stop()
	})
}
