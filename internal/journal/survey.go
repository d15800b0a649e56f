package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// visitor takes what a survey reads, in order. The slices are valid during the
// call only.
type visitor struct {
	checkpoint func(last uint64, state []byte) error
	commit     func(index uint64, events []byte) error
}

// survey reads a directory and changes nothing: what Verify reports, and what
// Recover has to do before the journal can be written.
type survey struct {
	fs    FS
	visit visitor

	report   Report
	found    bool // there is a journal
	id       uint64
	seed     uint32
	next     uint64 // index of the next commit
	from     uint64 // first commit after the checkpoint
	segments []uint64
	end      int64            // of the last segment: where the next record goes
	patches  map[uint64]patch // by segment, to be written before the first commit
	useless  []string         // files to be removed
	buf      []byte
}

// patch is bytes that Recover writes and syncs: the last record once more, since
// a process that died, or a sync that failed, may have left it in the page cache
// only; and zeros over a torn one.
type patch struct {
	off   int64
	bytes []byte
}

func newSurvey(fs FS, v visitor) *survey {
	return &survey{fs: fs, visit: v, next: 1, from: 1, patches: map[uint64]patch{}}
}

func (s *survey) run() error {
	list, err := s.fs.List()
	if err != nil {
		return failed("list", ".", err)
	}
	n, err := parseNames(list)
	if err != nil {
		return err
	}
	s.useless = n.temporary
	if err := s.readCheckpoint(n.checkpoints); err != nil {
		return err
	}
	if err := s.choose(n.segments); err != nil {
		return err
	}
	for i := range s.segments {
		more, err := s.readSegment(i)
		if err != nil {
			return err
		}
		if !more {
			s.segments = s.segments[:i+1]
			break
		}
	}
	s.report.Leftovers = s.useless
	if s.next < s.from {
		return refuse(ErrCorrupt, segmentName(s.segments[len(s.segments)-1]), s.end,
			"ends before commit %d, which %s covers", s.next, s.report.Checkpoint.File)
	}
	return nil
}

// readCheckpoint reads the newest one; those before it are leftovers.
func (s *survey) readCheckpoint(all []uint64) error {
	if len(all) == 0 {
		return nil
	}
	for _, last := range all[:len(all)-1] {
		s.useless = append(s.useless, checkpointName(last))
	}
	last := all[len(all)-1]
	name := checkpointName(last)
	data, err := s.readFile(name, headerBytes+maxCheckpoint)
	if err != nil {
		return err
	}
	h, err := parseHeader(data, checkpointMagic, name)
	if err != nil {
		return err
	}
	state := data[headerBytes:]
	switch {
	case h.index != last:
		return refuse(ErrForeign, name, 0, "its header says that it ends with commit %d", h.index)
	case h.size != uint64(len(state)):
		return refuse(ErrCorrupt, name, int64(len(data)), "has %d bytes of state, its header says %d", len(state), h.size)
	case checksum(seed(h.id), state) != h.sum:
		return refuse(ErrCorrupt, name, headerBytes, "the checksum of the state differs")
	}
	s.found, s.id, s.seed = true, h.id, seed(h.id)
	s.next, s.from = last+1, last+1
	s.report.Checkpoint = &CheckpointReport{File: name, Last: last, Bytes: int64(len(state))}
	if s.visit.checkpoint == nil {
		return nil
	}
	if err := s.visit.checkpoint(last, state); err != nil {
		return fmt.Errorf("journal: state in %s: %w", name, err)
	}
	return nil
}

// choose keeps the segments from the one that holds, or would hold, the first
// commit after the checkpoint; those before it are leftovers.
func (s *survey) choose(all []uint64) error {
	start := -1
	for i, first := range all {
		if first <= s.from {
			start = i
		}
	}
	switch {
	case start < 0 && len(all) > 0:
		return refuse(ErrMissing, segmentName(s.from), 0,
			"commits %d to %d are in no file: the oldest segment is %s", s.from, all[0]-1, segmentName(all[0]))
	case start < 0 && s.found:
		return refuse(ErrMissing, segmentName(s.from), 0,
			"%s is there, and no segment", s.report.Checkpoint.File)
	case start < 0:
		return nil
	}
	for _, first := range all[:start] {
		s.useless = append(s.useless, segmentName(first))
	}
	s.segments = all[start:]
	s.next = s.segments[0]
	return nil
}

// readSegment reads the i-th segment and says whether the next one is to be read.
func (s *survey) readSegment(i int) (bool, error) {
	first, last := s.segments[i], i == len(s.segments)-1
	name := segmentName(first)
	data, err := s.load(first)
	if err != nil {
		return false, err
	}
	r := &segmentReader{survey: s, name: name, first: first, data: data, off: headerBytes}
	err = r.records()
	s.end = r.off
	s.report.Segments = append(s.report.Segments, SegmentReport{
		File: name, First: first, Commits: s.next - first, Bytes: r.bytes, Size: int64(len(data)), Sealed: r.sealed,
	})
	if err != nil {
		return false, err
	}
	s.patch(r)
	switch {
	case r.sealed && last:
		return false, refuse(ErrMissing, segmentName(s.next), 0, "%s says that it follows", name)
	case r.sealed && s.segments[i+1] != s.next:
		return false, refuse(ErrMissing, segmentName(s.next), 0, "%s says that it follows, but %s does",
			name, segmentName(s.segments[i+1]))
	case r.sealed:
		return true, nil
	case last:
		return false, nil
	}
	// Not sealed, and yet another segment: its creation was interrupted, if it
	// is the very next one and blank.
	after := s.segments[i+1]
	blank := false
	if i+2 == len(s.segments) && after == s.next {
		data, err := s.load(after)
		if err != nil {
			return false, err
		}
		blank = isZero(data[headerBytes:])
	}
	if !blank {
		return false, refuse(ErrCorrupt, name, r.off, "no valid commit %d here, but %s follows", s.next, segmentName(after))
	}
	s.useless = append(s.useless, segmentName(after))
	return false, nil
}

// patch notes what of the segment has to be written again. Only the last record
// of all can be other than durable, since each is synced before the next.
func (s *survey) patch(r *segmentReader) {
	p := patch{off: r.off}
	if r.lastRecord > 0 {
		clear(s.patches)
		p = patch{r.lastRecord, bytes.Clone(r.data[r.lastRecord:r.off])}
	}
	if r.torn > 0 {
		s.report.Torn = &TornReport{File: r.name, Offset: r.off, Bytes: r.torn}
		p.bytes = append(p.bytes, make([]byte, r.torn)...)
	}
	s.patches[r.first] = p
}

// load reads a segment and checks its header.
func (s *survey) load(first uint64) ([]byte, error) {
	name := segmentName(first)
	data, err := s.readFile(name, maxSegment)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(data, segmentMagic, name)
	if err != nil {
		return nil, err
	}
	switch {
	case h.index != first:
		return nil, refuse(ErrForeign, name, 0, "its header says that it starts with commit %d", h.index)
	case s.found && h.id != s.id:
		return nil, refuse(ErrForeign, name, 0, "belongs to journal %016x, the files before it to %016x", h.id, s.id)
	case h.size != uint64(len(data)):
		return nil, refuse(ErrCorrupt, name, int64(len(data)), "has %d bytes, its header says %d", len(data), h.size)
	}
	s.found, s.id, s.seed = true, h.id, seed(h.id)
	return data, nil
}

// readFile reads a whole file; the bytes are valid until the next call.
func (s *survey) readFile(name string, limit int64) ([]byte, error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return nil, failed("open", name, err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	size, err := f.Size()
	if err != nil {
		return nil, failed("read", name, err)
	}
	if size > limit {
		return nil, refuse(ErrForeign, name, limit, "has %d bytes, at most %d are known", size, limit)
	}
	if int64(cap(s.buf)) < size {
		s.buf = make([]byte, size)
	}
	data := s.buf[:size]
	if n, err := f.ReadAt(data, 0); int64(n) < size {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, failed("read", name, err)
	}
	return data, nil
}

// segmentReader goes through one segment.
type segmentReader struct {
	*survey
	name       string
	first      uint64
	data       []byte
	off        int64 // behind the last valid record
	lastRecord int64 // its offset, 0 without one
	sealed     bool
	torn       int64 // bytes of an incomplete record at off
	bytes      int64 // of commits
}

func (r *segmentReader) records() error {
	for !r.sealed {
		rec, ok := parseRecord(r.data[r.off:], r.seed)
		if !ok {
			break
		}
		if rec.index != r.next {
			return refuse(ErrCorrupt, r.name, r.off, "commit %d where %d was expected", rec.index, r.next)
		}
		if r.sealed = len(rec.events) == 0; !r.sealed {
			if err := r.commit(rec); err != nil {
				return err
			}
		}
		r.lastRecord = r.off
		r.off += rec.size
	}
	return r.judge()
}

func (r *segmentReader) commit(rec record) error {
	r.bytes += int64(len(rec.events))
	r.next++
	if rec.index < r.from {
		return nil // the checkpoint holds it
	}
	r.report.Commits++
	r.report.Bytes += int64(len(rec.events))
	if r.visit.commit == nil {
		return nil
	}
	if err := r.visit.commit(rec.index, rec.events); err != nil {
		return fmt.Errorf("journal: commit %d in %s at offset %d: %w", rec.index, r.name, r.off, err)
	}
	return nil
}

// judge tells a clean end, a torn write and corruption apart by what lies behind
// the last valid record. Torn is only what one interrupted write into zeros can
// leave: some of its sectors, or its beginning.
func (r *segmentReader) judge() error {
	rest := r.data[r.off:]
	rest = rest[:trimZeros(rest)]
	if len(rest) == 0 {
		return nil
	}
	if r.sealed {
		return refuse(ErrCorrupt, r.name, r.off, "bytes behind the end of the segment")
	}
	for o := alignment; o < len(rest); o += alignment {
		if rec, ok := parseRecord(r.data[r.off+int64(o):], r.seed); ok && rec.index >= r.next {
			return refuse(ErrCorrupt, r.name, r.off, "commit %d is damaged: commit %d at offset %d is valid",
				r.next, rec.index, r.off+int64(o))
		}
	}
	// The first eight bytes are in one sector: present all or not at all.
	if len(rest) > alignment && !isZero(rest[:alignment]) {
		length := int64(binary.LittleEndian.Uint32(rest[4:]))
		switch end := recordHeader + length + 1; {
		case int64(len(rest)) > end:
			return refuse(ErrCorrupt, r.name, r.off, "commit %d is damaged: bytes behind its end", r.next)
		case int64(len(rest)) == end && !hasHole(rest, r.off):
			return refuse(ErrCorrupt, r.name, r.off, "commit %d is damaged: it is complete, and its checksum differs", r.next)
		}
	}
	r.torn = int64(len(rest))
	return nil
}

// hasHole says whether a sector of b, which is at off in its file, has only zeros.
func hasHole(b []byte, off int64) bool {
	for len(b) > 0 {
		n := min(int(sector-off%sector), len(b))
		if isZero(b[:n]) {
			return true
		}
		b, off = b[n:], off+int64(n)
	}
	return false
}

// trimZeros is the length of b without the zeros at its end.
func trimZeros(b []byte) int {
	n := len(b)
	for n >= 8 && binary.LittleEndian.Uint64(b[n-8:]) == 0 {
		n -= 8
	}
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

func isZero(b []byte) bool { return trimZeros(b) == 0 }
