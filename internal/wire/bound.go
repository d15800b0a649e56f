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
	var l lists
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
	if err := l.count((*bankpb.BranchMessage)(nil).ProtoReflect().Descriptor(), frame); err != nil {
		return err
	}
	if fields > maxFields || inPlan > maxFields+MaxInTransit {
		return fmt.Errorf("%w: more elements than a bank of %d branches has", ErrFrame, ledger.MaxBranches)
	}
	return nil
}

// Bounds of the lists of numbers in a frame. A packed list is one chunk; each more of the same list copies what
// was there, so that many small ones would take memory by the square. A number of one byte becomes eight.
const (
	maxChunks  = 16
	maxNumbers = MaxFrame // as many as fit into the message that has most: ReturnSnapshot
)

// lists counts the lists of numbers in a frame.
type lists struct{ chunks, numbers int }

// count adds those in a message and in the messages within it. Error: ErrFrame.
func (l *lists) count(d protoreflect.MessageDescriptor, message []byte) error {
	for len(message) > 0 {
		num, value, rest, err := field(message)
		if err != nil {
			return err
		}
		message = rest
		switch f := d.Fields().ByNumber(num); {
		case f == nil:
		case f.Message() != nil:
			err = l.count(f.Message(), value)
		case f.IsPacked() && value == nil:
			l.numbers++
		case f.IsPacked():
			l.chunks++
			for _, b := range value {
				if b < 0x80 {
					l.numbers++
				}
			}
		}
		if err == nil && (l.chunks > maxChunks || l.numbers > maxNumbers) {
			err = fmt.Errorf("%w: more than %d lists or %d numbers", ErrFrame, maxChunks, maxNumbers)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planFields adds up the fields of a plan.
func planFields(plan []byte, n int) (int, error) {
	for len(plan) > 0 {
		_, _, rest, err := field(plan)
		if err != nil {
			return n, err
		}
		n++
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

// Short is a text as a message carries it: UTF-8, and bounded.
func Short(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxPrinted)], "") }

// Printable is a text from elsewhere in one line, without anything that a terminal or a log would take
// for its own, cut to a length that a line can bear.
func Printable(text string) string {
	quoted := strconv.Quote(text[:min(len(text), maxPrinted)])
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
