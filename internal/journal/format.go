package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
)

// The package comment draws these formats.
const (
	version      = 1
	headerBytes  = 64
	recordHeader = 16
	endMark      = 0x9e
	alignment    = 8
	// sealBytes is the size of a record without bytes. That much stays free at
	// the end of a segment.
	sealBytes = recordHeader + alignment
	sector    = 512
	// The least segment holds a header, one small commit and the seal.
	minSegment = 256
	maxSegment = 1 << 30

	segmentMagic     = "cutbkseg"
	checkpointMagic  = "cutbkchk"
	segmentSuffix    = ".segment"
	checkpointSuffix = ".checkpoint"
	tempSuffix       = ".tmp"
)

// checksum continues a CRC-32C.
func checksum(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
}

// header is the first 64 bytes of a segment or a checkpoint.
type header struct {
	id    uint64 // of the journal
	index uint64 // of a segment's first commit, or of a checkpoint's last
	size  uint64 // of a segment's file, or of a checkpoint's state
	sum   uint32 // of a checkpoint's state
}

func (h header) append(b []byte, magic string) []byte {
	start := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, h.sum)
	b = binary.LittleEndian.AppendUint64(b, h.id)
	b = binary.LittleEndian.AppendUint64(b, h.index)
	b = binary.LittleEndian.AppendUint64(b, h.size)
	b = append(b, make([]byte, headerBytes-4-(len(b)-start))...)
	return binary.LittleEndian.AppendUint32(b, checksum(0, b[start:]))
}

// parseHeader refuses what it does not understand fully.
func parseHeader(b []byte, magic, file string) (header, error) {
	if len(b) < headerBytes {
		return header{}, refuse(ErrCorrupt, file, int64(len(b)), "the file ends inside its %d-byte header", headerBytes)
	}
	if string(b[:8]) != magic {
		return header{}, refuse(ErrForeign, file, 0, "starts with %q, not with %q", b[:8], magic)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return header{}, refuse(ErrVersion, file, 8, "version %d, this program reads version %d", v, version)
	}
	if checksum(0, b[:headerBytes-4]) != binary.LittleEndian.Uint32(b[headerBytes-4:]) {
		return header{}, refuse(ErrCorrupt, file, 0, "the checksum of the header differs")
	}
	return header{
		sum:   binary.LittleEndian.Uint32(b[12:]),
		id:    binary.LittleEndian.Uint64(b[16:]),
		index: binary.LittleEndian.Uint64(b[24:]),
		size:  binary.LittleEndian.Uint64(b[32:]),
	}, nil
}

// seed is the CRC that every record of a journal starts from, so that the
// records of another journal are not valid in this one.
func seed(id uint64) uint32 {
	return checksum(0, binary.LittleEndian.AppendUint64(nil, id))
}

// recordBytes is the size of a record that holds n bytes.
func recordBytes(n int) int64 {
	return (recordHeader + int64(n) + 1 + alignment - 1) / alignment * alignment
}

// appendRecord appends the record of one commit, or a seal if events is empty.
func appendRecord(b []byte, seed uint32, index uint64, events []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(events))) //nolint:gosec // at most MaxCommit
	b = binary.LittleEndian.AppendUint64(b, index)
	b = append(b, events...)
	b = append(b, endMark)
	for (len(b)-start)%alignment != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[start:], checksum(seed, b[start+4:]))
	return b
}

// record is what parseRecord found.
type record struct {
	index  uint64
	events []byte // empty: a seal
	size   int64
}

// parseRecord reads the record at the start of b, if a valid one is there.
func parseRecord(b []byte, seed uint32) (record, bool) {
	if len(b) < sealBytes {
		return record{}, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > MaxCommit {
		return record{}, false
	}
	size := recordBytes(int(n))
	if size > int64(len(b)) || b[recordHeader+n] != endMark {
		return record{}, false
	}
	if checksum(seed, b[4:size]) != binary.LittleEndian.Uint32(b) {
		return record{}, false
	}
	return record{
		index:  binary.LittleEndian.Uint64(b[8:]),
		events: b[recordHeader : recordHeader+n],
		size:   size,
	}, true
}

func segmentName(first uint64) string   { return fmt.Sprintf("%020d%s", first, segmentSuffix) }
func checkpointName(last uint64) string { return fmt.Sprintf("%020d%s", last, checkpointSuffix) }

// names is the content of a directory, by kind, each in ascending order. Files
// with other suffixes (lock, log) are not the journal's and not looked at.
type names struct {
	segments    []uint64
	checkpoints []uint64
	temporary   []string
}

func parseNames(list []string) (names, error) {
	var n names
	for _, name := range list {
		switch {
		case strings.HasSuffix(name, segmentSuffix+tempSuffix), strings.HasSuffix(name, checkpointSuffix+tempSuffix):
			n.temporary = append(n.temporary, name)
		case strings.HasSuffix(name, segmentSuffix):
			index, ok := parseIndex(name, segmentSuffix)
			if !ok || index == 0 {
				return n, refuse(ErrForeign, name, 0, "a segment is named after its first commit in 20 digits")
			}
			n.segments = append(n.segments, index)
		case strings.HasSuffix(name, checkpointSuffix):
			index, ok := parseIndex(name, checkpointSuffix)
			if !ok || index == math.MaxUint64 {
				return n, refuse(ErrForeign, name, 0, "a checkpoint is named after its last commit in 20 digits")
			}
			n.checkpoints = append(n.checkpoints, index)
		}
	}
	return n, nil
}

func parseIndex(name, suffix string) (uint64, bool) {
	digits := strings.TrimSuffix(name, suffix)
	index, err := strconv.ParseUint(digits, 10, 64)
	return index, err == nil && len(digits) == 20
}
