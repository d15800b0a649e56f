package journal

import "errors"

// fillBytes is the most that is zeroed in one write.
const fillBytes = 256 << 10

// spareName is a segment's name before it is known with which commit it starts.
const (
	spareName = "spare" + segmentSuffix + tempSuffix
	largeName = "large" + segmentSuffix + tempSuffix
)

// blank is a segment in the making, under a temporary name.
type blank struct {
	File
	name   string
	size   int64
	filled int64 // up to where it is zeroed
}

// Prepare does a part of the work that the next change of segments needs, a
// sixteenth at most, so that no commit waits for all of it. It may be called
// after each commit, when that commit's effects are out; without it nothing but
// the time differs.
func (j *Journal) Prepare() error {
	if err := j.usable(); err != nil {
		return err
	}
	size := j.cfg.SegmentBytes
	if j.spare != nil && float64(j.spare.filled)/float64(size) > float64(j.off)/float64(j.size) {
		return nil
	}
	if j.spare == nil {
		b, err := j.newBlank(spareName, size)
		if err != nil {
			return j.fail(err)
		}
		j.spare = b
	}
	part := max(size/16, headerBytes) / alignment * alignment
	err := j.fill(j.spare, min(j.spare.filled+part, size))
	if err == nil {
		err = j.sync(j.spare, j.spare.name)
	}
	if err != nil {
		return j.fail(err)
	}
	return nil
}

// change goes on in a new segment, then seals the one before, so that the loss
// of the new one would be noticed.
func (j *Journal) change(size int64) error {
	before, name := j.cur, j.name
	cur, err := j.newSegment(size)
	if err != nil {
		return err
	}
	j.cur, j.name = cur, segmentName(j.next)
	j.old = append(j.old, name)
	seal := appendRecord(j.buf[:0], j.seed, j.next, nil)
	if err := errors.Join(j.writeSync(before, name, seal, j.off), failed("close", name, before.Close())); err != nil {
		return err
	}
	j.off, j.size = headerBytes, size
	return nil
}

// newSegment makes the segment that starts with the next commit: zeros to its
// full length and the header, synced under a temporary name, renamed, and the
// name made durable.
func (j *Journal) newSegment(size int64) (File, error) {
	b, err := j.takeBlank(size)
	if err != nil {
		return nil, err
	}
	h := header{id: j.id, index: j.next, size: uint64(size)} //nolint:gosec // a length
	err = j.fill(b, size)
	if err == nil {
		err = j.writeSync(b, b.name, h.append(nil, segmentMagic), 0)
	}
	if err == nil {
		err = j.publish(b.name, segmentName(j.next))
	}
	if err != nil {
		return nil, errors.Join(err, failed("close", b.name, b.Close()))
	}
	return b.File, nil
}

// takeBlank gives the spare, if there is one and the size is the usual one.
func (j *Journal) takeBlank(size int64) (*blank, error) {
	if size != j.cfg.SegmentBytes {
		return j.newBlank(largeName, size)
	}
	if b := j.spare; b != nil {
		j.spare = nil
		return b, nil
	}
	return j.newBlank(spareName, size)
}

func (j *Journal) newBlank(name string, size int64) (*blank, error) {
	f, err := j.fs.Create(name)
	if err != nil {
		return nil, failed("create", name, err)
	}
	return &blank{File: f, name: name, size: size, filled: headerBytes}, nil
}

// fill zeroes a segment up to an offset.
func (j *Journal) fill(b *blank, to int64) error {
	if j.zeros == nil {
		j.zeros = make([]byte, min(j.cfg.SegmentBytes, fillBytes))
	}
	for b.filled < to {
		part := j.zeros[:min(int64(len(j.zeros)), to-b.filled)]
		if err := j.write(b, b.name, part, b.filled); err != nil {
			return err
		}
		b.filled += int64(len(part))
	}
	return nil
}

// publish gives a complete and synced file its final name, durably.
func (j *Journal) publish(temp, name string) error {
	if err := j.fs.Rename(temp, name); err != nil {
		return failed("rename", temp, err)
	}
	return j.syncDir()
}
