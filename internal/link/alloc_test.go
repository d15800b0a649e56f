package link

import (
	"net"
	"testing"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
)

// TestSteadyLinkDoesNotAllocate: a batch of transfers and its acknowledgement over a real connection
// allocate nothing, at either end.
func TestSteadyLinkDoesNotAllocate(t *testing.T) {
	if testing.Short() {
		t.Skip("under the race detector sync.Pool drops what it is given")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deliveries := make(chan Delivery, 64)
	ended := make(chan struct{}, 2)
	var ends [2]*Conn
	for i, nc := range []net.Conn{near, far} {
		ends[i] = newConn(0, nc, wire.NewReader(nc, wire.MaxFrame), Delay{}, len(ends))
		go func() {
			ends[i].run(func(d Delivery) {
				if len(d.Items) > 0 || d.Ack > 0 {
					deliveries <- d
				}
			})
			ended <- struct{}{}
		}()
	}
	const batch = 100
	var frames, ack []byte
	for range batch {
		frames = wire.AppendItem(frames, ledger.Item{Money: 300})
	}
	count := uint64(0)
	round := func() {
		count += batch
		ack = wire.AppendAck(ack[:0], count)
		ends[0].SendItems(nil, frames)
		for items := 0; items < batch; {
			d := <-deliveries
			items += len(d.Items)
			d.Recycle()
		}
		ends[1].SendItems(ack, nil)
		if d := <-deliveries; d.Ack != count {
			t.Fatalf("acknowledged %d, want %d", d.Ack, count)
		}
	}
	for range 20 { // buffers grow to their size
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations for %d transfers and an acknowledgement", n, batch)
	}
	for _, c := range ends {
		c.Close(net.ErrClosed)
	}
	<-ended
	<-ended
}
