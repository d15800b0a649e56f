package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// message is the generated form of an item.
func message(item ledger.Item) *bankpb.BranchMessage {
	if item.Marker != 0 {
		return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Marker{Marker: &bankpb.Marker{SnapshotId: item.Marker}}}
	}
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Transfer{Transfer: &bankpb.Transfer{Money: item.Money, Id: item.ID}}}
}

func body(frame []byte) []byte {
	_, n := binary.Uvarint(frame)
	return frame[n:]
}

// FuzzAppend: what is written by hand is what the generated code writes, and is read back.
func FuzzAppend(f *testing.F) {
	f.Add(uint64(1), uint64(0), false)
	f.Add(uint64(1)<<63, ^uint64(0), false)
	f.Add(^uint64(0), uint64(0), true)
	f.Add(uint64(128), uint64(127), false)
	f.Fuzz(func(t *testing.T, value, id uint64, marker bool) {
		ack := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Ack{Ack: &bankpb.Ack{Received: value}}}
		if got, want := wire.AppendAck(nil, value), wire.Append(nil, ack); !bytes.Equal(got, want) {
			t.Errorf("ack %d: %x, want %x", value, got, want)
		} else if back, ok := wire.ParseAck(body(got)); value != 0 && (!ok || back != value) {
			t.Errorf("ack %d is read as %d, %v", value, back, ok)
		}
		item := ledger.Item{Money: value, ID: id}
		if marker {
			item = ledger.Item{Marker: value}
		}
		got := wire.AppendItem(nil, item)
		if want := wire.Append(nil, message(item)); !bytes.Equal(got, want) {
			t.Errorf("%+v: %x, want %x", item, got, want)
		}
		if back, ok := wire.ParseItem(body(got)); value != 0 && (!ok || back != item) {
			t.Errorf("%+v is read as %+v, %v", item, back, ok)
		}
	})
}

// FuzzParseItem: an item or an acknowledgement that is read by hand is the one that the generated code reads.
func FuzzParseItem(f *testing.F) {
	f.Add(body(wire.AppendItem(nil, ledger.Item{Money: 300, ID: 7})))
	f.Add(body(wire.AppendItem(nil, ledger.Item{Marker: 9})))
	f.Add(body(wire.AppendAck(nil, 9)))
	f.Add([]byte{18, 3, 8, 0x81, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if ack, ok := wire.ParseAck(frame); ok {
			if m, err := wire.Parse(frame); err != nil || m.GetAck() == nil || m.GetAck().GetReceived() != ack {
				t.Errorf("%x is an ack of %d, but %v, %v", frame, ack, m, err)
			}
		}
		item, ok := wire.ParseItem(frame)
		if !ok {
			return
		}
		m, err := wire.Parse(frame)
		if err != nil {
			t.Fatalf("%x is %+v, but %v", frame, item, err)
		}
		want := ledger.Item{Money: m.GetTransfer().GetMoney(), ID: m.GetTransfer().GetId(), Marker: m.GetMarker().GetSnapshotId()}
		if item != want {
			t.Errorf("%x is %+v, want %+v", frame, item, want)
		}
	})
}

// pieces reads at most size bytes at a time.
type pieces struct {
	src  io.Reader
	size int
	most int // the largest buffer that was offered
}

func (p *pieces) Read(b []byte) (int, error) {
	p.most = max(p.most, len(b))
	return p.src.Read(b[:min(len(b), p.size)])
}

// FuzzReader: any bytes in any pieces end in frames or an error, in a buffer of at most twice the cap.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2}, uint16(1), true)
	f.Add(binary.AppendUvarint(nil, 1<<40), uint16(3), false)
	f.Add(wire.AppendItem(wire.AppendAck(nil, 300), ledger.Item{Money: 5}), uint16(1), false)
	f.Add(append([]byte{0xff, 0xff, 3}, make([]byte, 70<<10)...), uint16(999), false)
	f.Fuzz(func(t *testing.T, data []byte, size uint16, large bool) {
		limit := wire.MaxFrame
		if large {
			limit = wire.MaxRosterFrame
		}
		src := &pieces{src: bytes.NewReader(data), size: int(size) + 1}
		r := wire.NewReader(src, limit)
		rest := data
		for {
			frame, err := r.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, wire.ErrFrame) {
					t.Fatal(err)
				}
				break
			}
			length, n := binary.Uvarint(rest)
			if n <= 0 || !bytes.Equal(frame, rest[n:n+int(length)]) {
				t.Fatalf("got %x of %x", frame, rest)
			}
			rest = rest[n+int(length):]
		}
		if src.most > 2*limit {
			t.Errorf("a buffer of %d bytes for a cap of %d", src.most, limit)
		}
	})
}

// TestBadFrames: what is not a frame is refused before its bytes are waited for.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		data  []byte
		limit int
		want  error
	}{
		"empty":             {nil, wire.MaxFrame, io.EOF},
		"beyond the cap":    {binary.AppendUvarint(nil, wire.MaxFrame+1), wire.MaxFrame, wire.ErrFrame},
		"beyond every cap":  {binary.AppendUvarint(nil, wire.MaxRosterFrame+1), wire.MaxRosterFrame, wire.ErrFrame},
		"highest length":    {binary.AppendUvarint(nil, ^uint64(0)), wire.MaxRosterFrame, wire.ErrFrame},
		"large transfer":    {append(binary.AppendUvarint(nil, wire.MaxFrame+1), 18), wire.MaxRosterFrame, wire.ErrFrame},
		"large status":      {append(binary.AppendUvarint(nil, wire.MaxFrame+1), 0xe2, 1), wire.MaxRosterFrame, io.ErrUnexpectedEOF},
		"large, half a tag": {append(binary.AppendUvarint(nil, wire.MaxFrame+1), 0xe2), wire.MaxRosterFrame, io.ErrUnexpectedEOF},
		"large ack":         {append(binary.AppendUvarint(nil, wire.MaxFrame+1), 0xa2, 1), wire.MaxRosterFrame, wire.ErrFrame},
		"large init":        {append(binary.AppendUvarint(nil, wire.MaxFrame+1), 10), wire.MaxRosterFrame, io.ErrUnexpectedEOF},
		"overlong varint":   {bytes.Repeat([]byte{0x80}, 11), wire.MaxFrame, wire.ErrFrame},
		"overflow":          {append(bytes.Repeat([]byte{0xff}, 9), 2), wire.MaxFrame, wire.ErrFrame},
		"truncated length":  {[]byte{0x80}, wire.MaxFrame, io.ErrUnexpectedEOF},
		"truncated message": {[]byte{4, 18, 2}, wire.MaxFrame, io.ErrUnexpectedEOF},
		"not protobuf":      {[]byte{1, 0xff}, wire.MaxFrame, wire.ErrFrame},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := wire.NewReader(bytes.NewReader(test.data), test.limit).NextMessage()
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, %v, want %v", m, err, test.want)
			}
		})
	}
}

// TestItemsAllocateNothing holds for both directions of the hot path.
func TestItemsAllocateNothing(t *testing.T) {
	buf := make([]byte, 0, 64)
	n := testing.AllocsPerRun(1000, func() {
		buf = wire.AppendItem(buf[:0], ledger.Item{Money: 300, ID: 1 << 40})
		if _, ok := wire.ParseItem(buf[1:]); !ok {
			t.Error("not an item")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
