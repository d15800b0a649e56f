package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// nested puts a body into fields, the innermost number last.
func nested(body []byte, numbers ...protowire.Number) []byte {
	for i := len(numbers) - 1; i >= 0; i-- {
		body = append(protowire.AppendTag(nil, numbers[i], protowire.BytesType), protowire.AppendBytes(nil, body)...)
	}
	return body
}

// allocated is what parsing a frame takes.
func allocated(frame []byte) (m *bankpb.BranchMessage, bytes uint64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err = wire.Parse(frame)
	runtime.ReadMemStats(&after)
	return m, after.TotalAlloc - before.TotalAlloc, err
}

// TestElements: lists are bounded before they are unmarshalled, and no frame takes more than twice the cap.
func TestElements(t *testing.T) {
	const branches, most = ledger.MaxBranches, 2 * wire.MaxRosterFrame
	empty := func(number byte, n int) []byte { return bytes.Repeat([]byte{number<<3 | 2, 0}, n) }
	ones := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	transit := bytes.Repeat(nested([]byte{8, 1, 16, 2, 24, 3}, 5), wire.MaxInTransit)
	plan := append(nested(ones(branches), 4), transit...)
	whole := append(bytes.Repeat(nested(nested([]byte("branch"), 1), 2), branches), nested(plan, 16)...)
	for name, test := range map[string]struct {
		frame []byte
		bad   bool
	}{
		"a full bank":               {frame: nested(whole, 1)},
		"branches":                  {frame: nested(empty(2, 2_000_000), 1), bad: true},
		"in transit":                {frame: nested(empty(5, 2_000_000), 1, 16), bad: true},
		"in transit, a little more": {frame: nested(append(transit, empty(5, 3*branches)...), 1, 16), bad: true},
		"in transit, many plans":    {frame: nested(bytes.Repeat(nested(empty(5, 60_000), 16), 30), 1), bad: true},
		"packed balances":           {frame: nested(ones(4_000_000), 1, 16, 4), bad: true},
		"loose balances":            {frame: nested(bytes.Repeat([]byte{4 << 3, 1}, 2_000_000), 1, 16), bad: true},
		"prove":                     {frame: nested(empty(3, 30_000), 26), bad: true},
		"status links":              {frame: nested(empty(8, 30_000), 28), bad: true},
		"status numbers":            {frame: nested(ones(4_000_000), 28, 9, 4), bad: true},
		"loose status numbers":      {frame: nested(bytes.Repeat([]byte{4 << 3, 1}, 2_000_000), 28, 9), bad: true},
		"many lists of numbers":     {frame: nested(bytes.Repeat(nested(ones(9000), 9, 4), 400), 28), bad: true},
		"a name":                    {frame: nested(ones(4_000_000), 28, 3)},
		"two messages":              {frame: append(nested(ones(0), 19), nested(ones(0), 19)...), bad: true},
		"none":                      {bad: true},
		"not a message":             {frame: []byte{8, 1}, bad: true},
		"deep groups":               {frame: nested(bytes.Repeat([]byte{99<<3&0x7f | 3}, 60_000), 2), bad: true},
		"a full frame of numbers":   {frame: nested(ones(wire.MaxFrame-8), 6, 1, 3)},
	} {
		t.Run(name, func(t *testing.T) {
			m, got, err := allocated(test.frame)
			if got > most {
				t.Errorf("%d bytes allocated for a frame of %d", got, len(test.frame))
			}
			if test.bad && !errors.Is(err, wire.ErrFrame) || !test.bad && err != nil {
				t.Errorf("a frame of %d bytes: %v", len(test.frame), err)
			}
			if name == "a full bank" && (len(m.GetInitBranch().GetAllBranches()) != branches || len(m.GetInitBranch().GetPlan().GetInTransit()) != wire.MaxInTransit) {
				t.Error("the whole bank is not there")
			}
		})
	}
}

// FuzzParse: no frame takes more than twice the cap, and what is read is what the generated code reads.
func FuzzParse(f *testing.F) {
	f.Add(nested([]byte{2<<3 | 2, 0, 2<<3 | 2, 0}, 1), uint16(9000))
	f.Add(nested([]byte{5<<3 | 2, 0, 4<<3 | 2, 1, 1}, 1, 16), uint16(9000))
	f.Add(nested([]byte{8<<3 | 2, 0}, 28), uint16(9000))
	f.Fuzz(func(t *testing.T, piece []byte, times uint16) {
		frame := piece
		if kind, _, n := protowire.ConsumeTag(piece); n > 0 { // what is in it many times, as one frame
			if body, m := protowire.ConsumeBytes(piece[n:]); m > 0 && len(body)*int(times) < wire.MaxRosterFrame {
				frame = nested(bytes.Repeat(body, int(times)), kind)
			}
		}
		m, got, err := allocated(frame)
		if got > 2*wire.MaxRosterFrame {
			t.Errorf("%d bytes allocated for a frame of %d", got, len(frame))
		}
		var want bankpb.BranchMessage
		if err == nil && (proto.Unmarshal(frame, &want) != nil || !proto.Equal(m, &want)) {
			t.Errorf("%x is %v", frame, m)
		}
	})
}

// TestLargeBuffer: the buffer grows with what comes, is told of before it is large, and shrinks again.
func TestLargeBuffer(t *testing.T) {
	frame := func(n int) []byte {
		return append(binary.AppendUvarint(nil, uint64(n)), append([]byte{10}, make([]byte, n-1)...)...)
	}
	var told []bool
	src := &pieces{src: bytes.NewReader(append(frame(wire.MaxRosterFrame), frame(wire.MaxFrame)...)), size: 1 << 20}
	r := wire.NewReader(src, wire.MaxRosterFrame)
	r.Large = func(large bool) { told = append(told, large) }
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Wait(); err == nil || len(told) != 2 || !told[0] || told[1] || src.most > wire.MaxRosterFrame {
		t.Errorf("%v, told %v, a buffer of %d", err, told, src.most)
	}
	r.Limit(4)
	if err := r.Wait(); err == nil {
		t.Error("something after the end")
	}
}
