// Package wire frames and unframes the messages of proto/bank.proto and turns the two hot kinds,
// transfers and markers, into ledger items and back without allocating. It knows no order of
// messages and no state.
//
// A frame is protobuf's standard delimited form:
//
//	uvarint length | BranchMessage of that many bytes
//
// Invariant: nothing is allocated for a length that a peer names before it is found within the
// reader's limit.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cutbank/internal/ledger"
	"cutbank/proto/bankpb"
)

// Limits of a frame's length in bytes, without the length itself.
const (
	MaxFrame       = 64 << 10 // of most messages; a ReturnSnapshot of the largest bank fits
	MaxRosterFrame = 4 << 20  // of those that list the branches: InitBranch, Prove, Status
)

// ErrFrame says that bytes are not a frame: too long, or not a BranchMessage.
var ErrFrame = errors.New("wire: bad frame")

// Field numbers of proto/bank.proto that are read and written by hand here.
const (
	fieldInit     = 1
	fieldTransfer = 2
	fieldMarker   = 4
	fieldAck      = 20
	fieldProve    = 26
	fieldStatus   = 28

	fieldValue = 1 // of Transfer.money, Marker.snapshot_id, Ack.received
	fieldID    = 16
	fieldPlan  = 16 // of InitBranch
)

// Append frames a message at the end of b.
func Append(b []byte, m *bankpb.BranchMessage) []byte {
	b = binary.AppendUvarint(b, uint64(proto.Size(m))) //nolint:gosec // a size
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		panic(err) // only a string that is not UTF-8; names are checked before
	}
	return b
}

// AppendItem frames a Transfer or a Marker, byte for byte as Append would.
func AppendItem(b []byte, item ledger.Item) []byte {
	if item.Marker != 0 {
		return appendSmall(b, fieldMarker, item.Marker, 0)
	}
	return appendSmall(b, fieldTransfer, item.Money, item.ID)
}

// AppendAck frames an Ack, byte for byte as Append would.
func AppendAck(b []byte, received uint64) []byte { return appendSmall(b, fieldAck, received, 0) }

// appendSmall frames a message of one number and at most an id. Its inner and outer lengths are
// below 128, so that each takes one byte.
func appendSmall(b []byte, field protowire.Number, value, id uint64) []byte {
	start := len(b)
	b = append(b, 0) // length of the frame
	b = protowire.AppendTag(b, field, protowire.BytesType)
	inner := len(b)
	b = append(b, 0) // length of the message
	if value != 0 {
		b = protowire.AppendTag(b, fieldValue, protowire.VarintType)
		b = protowire.AppendVarint(b, value)
	}
	if id != 0 {
		b = protowire.AppendTag(b, fieldID, protowire.VarintType)
		b = protowire.AppendVarint(b, id)
	}
	b[inner] = byte(len(b) - inner - 1) //nolint:gosec // below 128
	b[start] = byte(len(b) - start - 1) //nolint:gosec // as above
	return b
}

// ParseItem reads a frame as a Transfer or a Marker in the form that AppendItem writes. Not ok means
// only that Parse must look: the frame is something else, or the same in another form.
func ParseItem(frame []byte) (item ledger.Item, ok bool) {
	field, value, id, ok := parseSmall(frame)
	switch {
	case ok && field == fieldTransfer && value != 0:
		return ledger.Item{Money: value, ID: id}, true
	case ok && field == fieldMarker && value != 0 && id == 0:
		return ledger.Item{Marker: value}, true
	}
	return ledger.Item{}, false
}

// ParseAck reads a frame as an Ack in the form that AppendAck writes; not ok as for ParseItem.
func ParseAck(f []byte) (received uint64, ok bool) {
	const tag = fieldAck<<3 | byte(protowire.BytesType) // two bytes
	if len(f) < 5 || f[0] != tag&0x7f|0x80 || f[1] != tag>>7 || int(f[2]) != len(f)-3 ||
		f[3] != fieldValue<<3|byte(protowire.VarintType) {
		return 0, false
	}
	received, n := protowire.ConsumeVarint(f[4:])
	return received, n == len(f)-4
}

// parseSmall is the inverse of appendSmall for a value that is not 0.
func parseSmall(f []byte) (field protowire.Number, value, id uint64, ok bool) {
	if len(f) < 4 || f[0]&7 != byte(protowire.BytesType) || f[0] >= 0x80 || int(f[1]) != len(f)-2 ||
		f[2] != fieldValue<<3|byte(protowire.VarintType) {
		return 0, 0, 0, false
	}
	field = protowire.Number(f[0] >> 3)
	if len(f) == 4 && f[3] < 0x80 {
		return field, uint64(f[3]), 0, true
	}
	value, n := protowire.ConsumeVarint(f[3:])
	if n < 0 {
		return 0, 0, 0, false
	}
	rest := f[3+n:]
	if len(rest) == 0 {
		return field, value, 0, true
	}
	num, typ, n := protowire.ConsumeTag(rest)
	if n < 0 || num != fieldID || typ != protowire.VarintType {
		return 0, 0, 0, false
	}
	id, m := protowire.ConsumeVarint(rest[n:])
	if m < 0 || n+m != len(rest) {
		return 0, 0, 0, false
	}
	return field, value, id, true
}

// Parse reads a frame, which holds exactly one message. Error: ErrFrame.
func Parse(frame []byte) (*bankpb.BranchMessage, error) {
	if err := bounded(frame); err != nil {
		return nil, err
	}
	m := new(bankpb.BranchMessage)
	if err := proto.Unmarshal(frame, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return m, nil
}

// Reader takes frames off a stream. Not safe for concurrent use.
type Reader struct {
	// Large, when it is not nil, is told before the buffer grows for a frame of more than MaxFrame, and
	// when it has shrunk again.
	Large func(bool)

	src  io.Reader
	max  int
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	need int // of the frame that is incomplete, with its length; 0: not known
}

// NewReader reads frames of at most limit bytes, and of more than MaxFrame only those that list the branches.
func NewReader(src io.Reader, limit int) *Reader {
	return &Reader{src: src, max: limit, buf: make([]byte, minBuffer)}
}

// minBuffer is what an idle connection costs.
const minBuffer = 4 << 10

// Limit changes the limit of a frame, for those that are not read yet.
func (r *Reader) Limit(limit int) { r.max = limit }

// Wait returns when something of the next frame has come. Errors: the stream's.
func (r *Reader) Wait() error {
	for r.r == r.w {
		if err := r.fill(); err != nil {
			return err
		}
	}
	return nil
}

// Buffered returns the next frame if it is here already, without reading. The frame is valid until
// the next Next. Error: ErrFrame.
func (r *Reader) Buffered() (frame []byte, ok bool, err error) {
	b := r.buf[r.r:r.w]
	length, n := binary.Uvarint(b)
	if n == 0 {
		return nil, false, nil
	}
	if n < 0 || length > uint64(r.max) { //nolint:gosec // a limit
		return nil, false, fmt.Errorf("%w: a length of more than %d bytes", ErrFrame, r.max)
	}
	if length > MaxFrame && !mayListBranches(b[n:]) {
		return nil, false, fmt.Errorf("%w: %d bytes; only InitBranch, Prove and Status may have more than %d", ErrFrame, length, MaxFrame)
	}
	end := n + int(length) //nolint:gosec // at most max
	if len(b) < end {
		r.need = end
		return nil, false, nil
	}
	r.r, r.need = r.r+end, 0
	return b[n:end], true, nil
}

// mayListBranches looks at what has come of a frame.
func mayListBranches(b []byte) bool {
	if len(b) == 0 || len(b) == 1 && b[0] >= 0x80 {
		return true // not known yet
	}
	field, typ, _ := protowire.ConsumeTag(b)
	return typ == protowire.BytesType && (field == fieldInit || field == fieldProve || field == fieldStatus)
}

// Next returns the next frame and waits for it. The frame is valid until the next call. Errors:
// io.EOF between frames, io.ErrUnexpectedEOF within one, ErrFrame, or the stream's.
func (r *Reader) Next() ([]byte, error) {
	for {
		frame, ok, err := r.Buffered()
		if ok || err != nil {
			return frame, err
		}
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) && r.r != r.w {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// NextMessage is Next and Parse.
func (r *Reader) NextMessage() (*bankpb.BranchMessage, error) {
	frame, err := r.Next()
	if err != nil {
		return nil, err
	}
	return Parse(frame)
}

// fill reads once. The buffer grows with what has really come, so that a length alone makes nobody
// allocate: doubled when it is full, up to the frame. A large one shrinks when it is empty.
func (r *Reader) fill() error {
	switch {
	case r.r == r.w:
		r.r, r.w = 0, 0
		if len(r.buf) > maxBuffer {
			r.buf = make([]byte, minBuffer)
			if r.Large != nil {
				r.Large(false)
			}
		}
	case r.w == len(r.buf):
		r.room()
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// maxBuffer holds every frame but the large ones.
const maxBuffer = MaxFrame + binary.MaxVarintLen32

// room moves the unread bytes to the front of a buffer that is full, or of a larger one.
func (r *Reader) room() {
	buf := r.buf
	if size := min(2*len(buf), max(maxBuffer, r.need)); size > len(buf) && (r.r == 0 || size <= maxBuffer) {
		if size > maxBuffer && len(buf) <= maxBuffer && r.Large != nil {
			r.Large(true)
		}
		buf = make([]byte, size)
	}
	r.w = copy(buf, r.buf[r.r:r.w])
	r.r, r.buf = 0, buf
}
