package observe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind of a Message: the number of its field in BranchMessage.
type Kind protowire.Number

// The assignment's messages. Numbers from 16 up are free for a branch's own.
const (
	InitBranch Kind = iota + 1
	Transfer
	InitSnapshot
	Marker
	RetrieveSnapshot
	ReturnSnapshot
	firstOwn Kind = 16
)

// Message is what a frame says.
type Message struct {
	Kind    Kind
	Money   uint64
	ID      uint64
	Balance uint64
	States  []uint64
	Note    string // worth telling: the message is another edition's, or none of the assignment's
}

const (
	maxFrame = 4 << 20
	maxLooks = 64 // bytes that are looked at to say what they look like
)

// framer takes frames off one direction of a connection, as the bytes come.
type framer struct {
	names  []string // a frame that is one of these is an introduction
	buf    []byte
	frames int
	begun  bool // a frame that is no introduction was there
	bad    bool
}

// feed returns the messages that are whole now. Bad tells, once, what the stream looks like when it is
// no stream of frames; nothing is parsed after that.
func (f *framer) feed(chunk []byte) (messages []Message, bad string) {
	if f.bad {
		return nil, ""
	}
	f.buf = append(f.buf, chunk...)
	at := 0
	for at < len(f.buf) {
		rest := f.buf[at:]
		if n := f.introduction(rest); n > 0 {
			messages = append(messages, Message{Kind: firstOwn, Note: "begins its connections with its name as text"})
			f.frames++
			at += n
			continue
		}
		length, n := binary.Uvarint(rest)
		if n == 0 {
			break
		}
		if n < 0 || length > maxFrame || length == 0 && !f.begun { // an empty message first is a length of 4 bytes
			return messages, f.fail(at)
		}
		end := n + int(length)
		if len(rest) < end {
			break
		}
		m, ok := parse(rest[n:end])
		if !ok {
			return messages, f.fail(at)
		}
		messages = append(messages, m)
		f.begun = true
		f.frames++
		at += end
	}
	f.buf = append(f.buf[:0], f.buf[at:]...)
	return messages, ""
}

// end is like feed for the end of the stream.
func (f *framer) end() (bad string) {
	if f.bad || f.frames > 0 || !whole(f.buf) {
		return "" // a process that is killed may leave half a frame
	}
	return f.fail(0)
}

func (f *framer) fail(at int) string {
	f.bad = true
	text := looks(f.buf[at:])
	f.buf = nil
	if f.frames > 0 {
		return fmt.Sprintf("after %d frames: %s", f.frames, text)
	}
	return text
}

// introduction is the length of a name in front of the first frame: as a line, ended by a zero or a blank, or
// behind its length. The assignment leaves open how a dialler says who it is.
func (f *framer) introduction(b []byte) int {
	if f.frames > 0 {
		return 0
	}
	for _, name := range f.names {
		for _, end := range []string{"\n", "\r\n", "\x00", " "} {
			if bytes.HasPrefix(b, []byte(name+end)) {
				return len(name + end)
			}
		}
		if len(b) > len(name) && int(b[0]) == len(name) && string(b[1:len(name)+1]) == name {
			return len(name) + 1
		}
	}
	return 0
}

// parse reads a BranchMessage.
func parse(b []byte) (m Message, ok bool) {
	var body []byte
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return m, false
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return m, false
		}
		switch own := num >= protowire.Number(firstOwn); {
		case typ == protowire.BytesType && (!own || m.Kind == 0): // its own field beside one of the assignment's is ignored
			body, _ = protowire.ConsumeBytes(b[n:])
			m.Kind = Kind(num)
		case typ != protowire.BytesType && !own:
			return m, false // the fields of BranchMessage are messages
		}
		b = b[n+size:]
	}
	switch m.Kind {
	case 0:
		m.Kind = firstOwn
	case Transfer:
		m.Money, m.Note, ok = value(body, "Transfer", "money")
		return m, ok
	case InitSnapshot, Marker, RetrieveSnapshot:
		m.ID, m.Note, ok = value(body, "Marker", "snapshot_id")
		return m, ok
	case ReturnSnapshot:
		return m, m.local(body)
	default:
		if m.Kind > ReturnSnapshot && m.Kind < firstOwn {
			m.Note = fmt.Sprintf("sends messages with the field number %d, which bank.proto does not have", m.Kind)
		}
	}
	return m, true
}

// value reads the one number of a message: field 1, or in later editions field 3, after the names of
// sender and receiver.
func value(b []byte, message, field string) (v uint64, note string, ok bool) {
	named := false
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, "", false
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return 0, "", false
		}
		switch {
		case num <= 2 && typ == protowire.BytesType:
			named = true
		case typ == protowire.VarintType && (num == 1 || named && num == 3):
			v, _ = protowire.ConsumeVarint(b[n:])
		}
		b = b[n+size:]
	}
	if named {
		note = fmt.Sprintf("sends a later edition's %s{src_branch=1, dst_branch=2, %s=3}", message, field)
	}
	return v, note, true
}

// local reads ReturnSnapshot{LocalSnapshot{snapshot_id=1, balance=2, channel_state=3}=1}.
func (m *Message) local(b []byte) bool {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return false
	}
	if b, n = protowire.ConsumeBytes(b[n:]); n < 0 {
		return false
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return false
		}
		switch {
		case typ == protowire.VarintType && num <= 3:
			v, _ := protowire.ConsumeVarint(b[n:])
			switch num {
			case 1:
				m.ID = v
			case 2:
				m.Balance = v
			default:
				m.States = append(m.States, v)
			}
		case typ == protowire.BytesType && num == 3:
			packed, _ := protowire.ConsumeBytes(b[n:])
			if !m.packed(packed) {
				m.Note = "sends a channel_state that is no list of numbers"
			}
		}
		b = b[n+size:]
	}
	return true
}

func (m *Message) packed(b []byte) bool {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return false
		}
		m.States = append(m.States, v)
		b = b[n:]
	}
	return true
}

// whole tells whether bytes begin with a message that has no length in front.
func whole(b []byte) bool {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || typ != protowire.BytesType || num > protowire.Number(ReturnSnapshot) && num < protowire.Number(firstOwn) || num > 2*protowire.Number(firstOwn) {
		return false
	}
	body, size := protowire.ConsumeBytes(b[n:])
	if size < 0 || len(body) == 0 {
		return false
	}
	_, ok := parse(b[:n+size])
	return ok
}

// looks says what bytes look like that are no frames.
func looks(b []byte) string {
	first := b[:min(len(b), maxLooks)]
	shown := hex.EncodeToString(first[:min(len(first), 16)])
	behind := func(n int, length uint64) bool {
		return length > 0 && length < maxFrame && len(first) > n && (whole(first[n:]) || whole(b[n:]))
	}
	switch {
	case whole(first) || whole(b):
		return "no framing: messages without a length in front (" + shown + ")"
	case len(first) > 4 && behind(4, uint64(binary.BigEndian.Uint32(first))):
		return "a length of 4 bytes, big-endian, in place of a varint (" + shown + ")"
	case len(first) > 4 && behind(4, uint64(binary.LittleEndian.Uint32(first))):
		return "a length of 4 bytes, little-endian, in place of a varint (" + shown + ")"
	case len(first) > 2 && behind(2, uint64(binary.BigEndian.Uint16(first))):
		return "a length of 2 bytes, big-endian, in place of a varint (" + shown + ")"
	case len(first) > 2 && behind(2, uint64(binary.LittleEndian.Uint16(first))):
		return "a length of 2 bytes, little-endian, in place of a varint (" + shown + ")"
	case slices.Contains([]byte("{["), first[0]):
		return fmt.Sprintf("JSON, not protobuf: %q", first)
	case len(first) > 1 && first[0] == 0x80 && first[1] <= 5:
		return "a Python pickle, not protobuf (" + shown + ")"
	case printable(first):
		return fmt.Sprintf("text, not protobuf: %q", first)
	}
	return "neither frames nor anything known (" + shown + ")"
}

func printable(b []byte) bool {
	return utf8.Valid(b) && !slices.ContainsFunc([]rune(string(b)), func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\r' })
}
