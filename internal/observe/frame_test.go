package observe

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

func transfer(money uint64) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Transfer{Transfer: &bankpb.Transfer{Money: money}}}
}

func marker(id uint64) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Marker{Marker: &bankpb.Marker{SnapshotId: id}}}
}

// TestFramer: messages are found however the bytes are cut.
func TestFramer(t *testing.T) {
	hello := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: &bankpb.Hello{From: "branch1"}}}
	returned := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_ReturnSnapshot{ReturnSnapshot: &bankpb.ReturnSnapshot{
		LocalSnapshot: &bankpb.ReturnSnapshot_LocalSnapshot{SnapshotId: 300, Balance: 1000, ChannelState: []uint64{0, 700, 0}},
	}}}
	var stream []byte
	for _, m := range []*bankpb.BranchMessage{hello, transfer(300), marker(2), returned} {
		stream = wire.Append(stream, m)
	}
	stream = append(stream, 0, 6, 0x82, 1, 1, 7, 0x22, 0) // an empty one, and a marker behind a field of the branch's own
	for _, front := range []string{"", "branch1\n", "branch1\r\n", "branch10\x00", "\x07branch1"} {
		for size := 1; size <= len(stream); size++ {
			f := framer{names: []string{"branch1", "branch10"}}
			var got []Message
			rest := append([]byte(front), stream...)
			for len(rest) > 0 {
				n := min(size, len(rest))
				messages, bad := f.feed(rest[:n])
				if bad != "" {
					t.Fatalf("size %d after %q: %s", size, front, bad)
				}
				got, rest = append(got, messages...), rest[n:]
			}
			if front != "" {
				got = got[1:]
			}
			if len(got) != 6 || got[4].Kind != firstOwn || got[5].Kind != Marker || got[1].Money != 300 || got[2].ID != 2 || got[2].Kind != Marker || got[3].ID != 300 || got[3].Balance != 1000 ||
				len(got[3].States) != 3 || got[3].States[1] != 700 {
				t.Fatalf("size %d: %+v", size, got)
			}
		}
	}
}

// TestLaterEdition: names in front of the number, and what is said of it.
func TestLaterEdition(t *testing.T) {
	body := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "branch1")
	body = protowire.AppendString(protowire.AppendTag(body, 2, protowire.BytesType), "branch2")
	body = protowire.AppendVarint(protowire.AppendTag(body, 3, protowire.VarintType), 25)
	m, ok := parse(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), body))
	if !ok || m.Kind != Transfer || m.Money != 25 || !strings.Contains(m.Note, "later edition") {
		t.Errorf("%v %+v", ok, m)
	}
}

// TestLooks: streams that are no frames are named.
func TestLooks(t *testing.T) {
	framed := func(f Framing) []byte {
		var b []byte
		for range 8 {
			one, err := f.frame(transfer(23))
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, one...)
		}
		return b
	}
	raw, err := proto.Marshal(marker(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		stream []byte
		want   string
	}{
		{framed(None), "no framing"},
		{raw, "no framing"}, // all there is, at the end of the connection
		{framed(BigEndian), "4 bytes, big-endian"},
		{framed(LittleEndian), "4 bytes, little-endian"},
		{append([]byte{0, 4}, framed(None)...), "2 bytes, big-endian"},
		{[]byte(strings.Repeat(`{"type": "transfer", "money": 3}`, 8)), "JSON"},
		{[]byte("hello\nbranch1\n" + strings.Repeat("TRANSFER 10\n", 20)), "text"},
		{append(wire.Append(nil, transfer(1)), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "after 1 frames: neither"},
	} {
		f := framer{}
		_, bad := f.feed(test.stream)
		if bad == "" {
			bad = f.end()
		}
		if !strings.Contains(bad, test.want) {
			t.Errorf("%x: %q, want %q", test.stream[:4], bad, test.want)
		}
		if messages, again := f.feed(wire.Append(nil, transfer(1))); messages != nil || again != "" {
			t.Errorf("parsed on after %q", bad)
		}
	}
	if f := (framer{}); true {
		if _, bad := f.feed([]byte{6, 0x12, 2}); bad != "" || f.end() != "" {
			t.Error("half a frame of a process that was killed counts as bad framing")
		}
	}
}

// FuzzFramer: whatever comes, it neither panics nor keeps more than the frame that is not whole.
func FuzzFramer(f *testing.F) {
	f.Add(wire.Append(wire.Append(nil, transfer(1)), marker(1)), 3)
	f.Add([]byte("branch1\n\x00\x00"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		fr := framer{names: []string{"branch1"}}
		for size = max(1, size); len(stream) > 0; {
			n := min(size, len(stream))
			messages, bad := fr.feed(stream[:n])
			if bad != "" && !fr.bad || len(messages) > n {
				t.Errorf("%d messages of %d bytes, bad %q", len(messages), n, bad)
			}
			stream = stream[n:]
		}
		fr.end()
	})
}
