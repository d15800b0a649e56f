package journal

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
)

// Tail reads a journal that another process may be writing to, from its newest checkpoint on, and goes
// on where it was. It changes nothing and takes no lock. What it hands over was written whole but may not
// be durable yet: it is for who lives and dies with the same machine. Not safe for concurrent use.
type Tail struct {
	fs   FS
	file File // the segment that is read; nil: begin with the checkpoint
	name string
	seed uint32
	off  int64
	next uint64 // index of the next commit
	buf  []byte
}

// Bounds of one read of a tail: it doubles while there is more.
const (
	minTailRead = 4 << 10
	maxTailRead = 256 << 10
)

// NewTail follows the journal in a directory; ReadDir is the FS for it.
func NewTail(fs FS) *Tail { return &Tail{fs: fs} }

// Read hands over what has come since the last call, until it has handed over limit bytes; more tells that
// it ended for that reason. At the first call, and again when the writer has removed what was not read yet,
// it begins with the newest checkpoint: its state and the index of its last commit, or nothing and 0. The
// slices are valid during the call only. Error: a function's, or what can't be a journal. A directory that
// is not there, or empty, is no error.
func (t *Tail) Read(limit int, checkpoint, commit func(index uint64, bytes []byte) error) (more bool, err error) {
	const retries = 10 // the writer may remove what was just listed
	for range retries {
		if t.file == nil {
			err = t.begin(checkpoint)
		}
		if err == nil && t.file != nil {
			more, err = t.records(limit, commit)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return more, err
		}
		t.Close()
	}
	return false, nil
}

// begin finds the newest checkpoint and the segment that goes on from there.
func (t *Tail) begin(checkpoint func(uint64, []byte) error) error {
	s := newSurvey(t.fs, visitor{checkpoint: checkpoint})
	list, err := t.fs.List()
	if err != nil {
		return failed("list", ".", err)
	}
	n, err := parseNames(list)
	if err != nil || len(n.segments) == 0 {
		return err
	}
	if err := s.readCheckpoint(n.checkpoints); err != nil {
		return err
	}
	if s.choose(n.segments) != nil {
		return fs.ErrNotExist // a newer checkpoint was made in between
	}
	if !s.found {
		if err := checkpoint(0, nil); err != nil {
			return err
		}
	}
	t.next = s.from
	return t.open(s.segments[0])
}

func (t *Tail) open(first uint64) error {
	name := segmentName(first)
	f, err := t.fs.Open(name)
	if err != nil {
		return failed("open", name, err)
	}
	head := make([]byte, headerBytes)
	_, err = f.ReadAt(head, 0)
	var h header
	if err == nil {
		h, err = parseHeader(head, segmentMagic, name)
	}
	if err != nil {
		return errors.Join(failed("read", name, err), f.Close())
	}
	t.Close()
	t.file, t.name, t.seed, t.off = f, name, seed(h.id), headerBytes
	return nil
}

// records reads on until there is no whole record.
func (t *Tail) records(limit int, commit func(uint64, []byte) error) (more bool, err error) {
	want := minTailRead
	for limit > 0 {
		if cap(t.buf) < want {
			t.buf = make([]byte, want)
		}
		n, err := t.file.ReadAt(t.buf[:want], t.off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, failed("read", t.name, err)
		}
		used, took, err := t.parse(t.buf[:n], limit, commit)
		if err != nil {
			return false, err
		}
		limit -= took
		switch whole := used > 0; {
		case whole && want < maxTailRead:
			want *= 2
		case whole:
		case n < want: // the file ends here: nothing more
			return false, nil
		case recordBytes(int(binary.LittleEndian.Uint32(t.buf[4:]))) > int64(want) && binary.LittleEndian.Uint32(t.buf[4:]) <= MaxCommit:
			want = int(recordBytes(int(binary.LittleEndian.Uint32(t.buf[4:]))))
		default:
			return false, nil
		}
	}
	return true, nil
}

// parse hands over the whole records at the start of b, and says how many bytes it used, and how many of
// those were handed over.
func (t *Tail) parse(b []byte, limit int, commit func(uint64, []byte) error) (used, took int, err error) {
	for took < limit {
		rec, ok := parseRecord(b[used:], t.seed)
		if !ok {
			return used, took, nil
		}
		if len(rec.events) == 0 { // sealed: the next segment is there, or was
			return used + int(rec.size), took, t.open(rec.index)
		}
		if rec.index == t.next {
			if err := commit(rec.index, rec.events); err != nil {
				return used, took, err
			}
			t.next++
			took += len(rec.events)
		} else if rec.index > t.next {
			return used, took, refuse(ErrCorrupt, t.name, t.off, "commit %d where %d was expected", rec.index, t.next)
		}
		used += int(rec.size)
		t.off += rec.size
	}
	return used, took, nil
}

// Close releases the file; a later Read begins again with the checkpoint.
func (t *Tail) Close() {
	if t.file != nil {
		_ = t.file.Close() // nothing was written
		t.file = nil
	}
}
