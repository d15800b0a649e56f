package link

import (
	"bytes"
	"testing"

	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// FuzzConnection gives arbitrary bytes to what reads a connection: first as a hello, then as the frames
// after the handshake. Nothing may panic, a hello that passes is of a peer of this bank, and a delivery
// is within its bound.
func FuzzConnection(f *testing.F) {
	id := &Identity{Bank: [16]byte{1}, Names: []string{"p", "q", "r"}, Self: 0}
	peer := &Identity{Bank: id.Bank, Names: id.Names, Self: 1}
	f.Add(wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: peer.hello("p")}}))
	f.Add(wire.Append(nil, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Position{
		Position: &bankpb.Position{Sent: 3, Received: 1, ReceivedHash: 7},
	}}))
	f.Add(wire.Append(wire.AppendAck(nil, 9), &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Ready{Ready: &bankpb.Ready{}}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := wire.NewReader(bytes.NewReader(b), wire.MaxRosterFrame).NextMessage(); err == nil {
			h := m.GetHello()
			if from, err := id.check(h); err == nil && (from <= 0 || from >= len(id.Names) || string(h.GetBankId()) != string(id.Bank[:])) {
				t.Errorf("taken as the hello of %d: %v", from, h)
			}
			_ = id.mac("dials", h, h)
		}
		c := Receiver(1, wire.NewReader(bytes.NewReader(b), wire.MaxFrame))
		err := c.Receive(func(d Delivery) {
			if len(d.Items) > MaxDelivery {
				t.Errorf("%d items in a delivery", len(d.Items))
			}
			for _, item := range d.Items {
				if (item.Money == 0) == (item.Marker == 0) {
					t.Errorf("neither a transfer nor a marker: %+v", item)
				}
			}
			d.Recycle()
		})
		if err == nil {
			t.Error("the bytes have no end")
		}
	})
}
