package wire

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cutbank/internal/ledger"
	"cutbank/proto/bankpb"
)

// MaxInTransit is how many channels of a restored bank may have money on them when it is opened.
const MaxInTransit = 1 << 16

// maxFields bounds the fields of a message, repeated ones counted each time: two lists of branches at
// most, and a few single ones.
const maxFields = 2*ledger.MaxBranches + 64

// bounded tells before a frame is unmarshalled whether that takes memory in proportion: a submessage of
// two bytes becomes fifty times as much. A frame is exactly one message. Error: ErrFrame.
func bounded(frame []byte) error {
	kind, typ, n := protowire.ConsumeTag(frame)
	if n < 0 || typ != protowire.BytesType {
		return fmt.Errorf("%w: no message", ErrFrame)
	}
	body, m := protowire.ConsumeBytes(frame[n:])
	if m < 0 || n+m != len(frame) {
		return fmt.Errorf("%w: not exactly one message", ErrFrame)
	}
	fields, inPlan := 0, 0
	for len(body) > 0 {
		num, value, rest, err := field(body)
		if err != nil {
			return err
		}
		if kind == fieldInit && num == fieldPlan {
			if inPlan, err = planFields(value, inPlan); err != nil {
				return err
			}
		}
		fields++
		body = rest
	}
	if n, err := chunks((*bankpb.BranchMessage)(nil).ProtoReflect().Descriptor(), frame, 0); err != nil || n > maxChunks {
		return fmt.Errorf("%w: more than %d lists of numbers", ErrFrame, maxChunks)
	}
	if fields > maxFields || inPlan > maxFields+MaxInTransit {
		return fmt.Errorf("%w: more elements than a bank of %d branches has", ErrFrame, ledger.MaxBranches)
	}
	return nil
}

// maxChunks bounds the packed lists of numbers in a frame. A list is one chunk; each more of the same list
// copies what was there, so that many small ones would take memory by the square.
const maxChunks = 16

// chunks adds up the packed lists in a message and in those within it.
func chunks(d protoreflect.MessageDescriptor, message []byte, n int) (int, error) {
	for len(message) > 0 && n <= maxChunks {
		num, value, rest, err := field(message)
		if err != nil {
			return n, err
		}
		message = rest
		switch f := d.Fields().ByNumber(num); {
		case f == nil || value == nil:
		case f.Message() != nil:
			if n, err = chunks(f.Message(), value, n); err != nil {
				return n, err
			}
		case f.IsPacked():
			n++
		}
	}
	return n, nil
}

// planFields adds up the fields of a plan, numbers in a packed list counted each.
func planFields(plan []byte, n int) (int, error) {
	for len(plan) > 0 {
		num, value, rest, err := field(plan)
		if err != nil {
			return n, err
		}
		n++
		if num == fieldBalances {
			for _, b := range value {
				if b < 0x80 {
					n++
				}
			}
		}
		plan = rest
	}
	return n, nil
}

// field takes the first field off a message. The value is nil when it has no length.
func field(b []byte) (num protowire.Number, value, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, nil, fmt.Errorf("%w: %w", ErrFrame, protowire.ParseError(n))
	}
	m := protowire.ConsumeFieldValue(num, typ, b[n:])
	if m < 0 {
		return 0, nil, nil, fmt.Errorf("%w: %w", ErrFrame, protowire.ParseError(m))
	}
	if typ == protowire.BytesType {
		value, _ = protowire.ConsumeBytes(b[n:])
	}
	return num, value, b[n+m:], nil
}

// maxPrinted is how many bytes of a text from elsewhere are shown.
const maxPrinted = 512

// Printable is a text from elsewhere in one line, without anything that a terminal or a log would take
// for its own, cut to a length that a line can bear.
func Printable(text string) string {
	quoted := strconv.Quote(text[:min(len(text), maxPrinted)])
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
