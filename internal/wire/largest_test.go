package wire_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// fill makes a message as large as the bank with most branches makes it: every list full, every number of the
// most bytes, every text of the most.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.ContainingOneof() != nil && !f.ContainingOneof().IsSynthetic(): // the caller's choice
		case f.IsList():
			list, n := m.Mutable(f).List(), ledger.MaxBranches
			if f.Name() == "in_transit" {
				n = wire.MaxInTransit
			}
			for range n {
				if f.Message() != nil {
					fill(list.AppendMutable().Message())
				} else {
					list.Append(largest(f))
				}
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message())
		default:
			m.Set(f, largest(f))
		}
	}
}

func largest(f protoreflect.FieldDescriptor) protoreflect.Value {
	text := 253 // a host; names are shorter
	if f.Name() == "refused" || f.Name() == "message" {
		text = 512
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("x", text))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(make([]byte, 32))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(-1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(9)
	default:
		return protoreflect.ValueOfUint64(math.MaxUint64)
	}
}

// TestLargest: whatever a bank of 1,024 branches says can be read, and only what lists them needs the large limit.
func TestLargest(t *testing.T) {
	kinds := (*bankpb.BranchMessage)(nil).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	for i := range kinds.Len() {
		kind := kinds.Get(i)
		m := new(bankpb.BranchMessage)
		fill(m.ProtoReflect().Mutable(kind).Message())
		frame := wire.Append(nil, m)
		large := kind.Name() == "init_branch" || kind.Name() == "prove" || kind.Name() == "status"
		limit := wire.MaxFrame
		if large {
			limit = wire.MaxRosterFrame
		}
		for _, size := range []int{1, 1 << 20} { // in pieces, and as it is
			got, err := wire.NewReader(&pieces{src: bytes.NewReader(frame), size: size}, limit).NextMessage()
			if err != nil || !proto.Equal(got, m) {
				t.Errorf("%s of %d bytes: %v", kind.Name(), len(frame), err)
			}
		}
		if _, err := wire.NewReader(bytes.NewReader(frame), wire.MaxFrame).NextMessage(); large && !errors.Is(err, wire.ErrFrame) {
			t.Errorf("%s of %d bytes by a reader of small frames: %v", kind.Name(), len(frame), err)
		}
		t.Logf("%s: %d bytes", kind.Name(), len(frame))
	}
}

// TestShort: a text from elsewhere fits into a message, whatever it is.
func TestShort(t *testing.T) {
	for text, want := range map[string]string{
		"why": "why", "": "", "a\xffb": "ab",
		strings.Repeat("x", 512):       strings.Repeat("x", 512),
		strings.Repeat("x", 513):       strings.Repeat("x", 512),
		strings.Repeat("x", 511) + "é": strings.Repeat("x", 511), // no half of a letter
	} {
		if got := wire.Short(text); got != want {
			t.Errorf("%q is %q", text, got)
		}
	}
}
