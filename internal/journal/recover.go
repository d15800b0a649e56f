package journal

import "errors"

// Recover reads the newest checkpoint, if there is one, and then each commit
// after it in order, cuts off an incomplete last commit, and makes all that it
// handed over durable. It is called once, before anything else. The slices are
// valid during the call of the function only; an error of a function ends the
// recovery. A directory without a journal gets a new one.
//
// Nothing is changed before all has been read and found good, so that a journal
// that is refused stays as it is.
func (j *Journal) Recover(checkpoint func(state []byte) error, commit func(events []byte) error) error {
	if j.ready || j.err != nil {
		panic("journal: recovered twice")
	}
	s := newSurvey(j.fs, visitor{
		checkpoint: func(_ uint64, state []byte) error { return checkpoint(state) },
		commit:     func(_ uint64, events []byte) error { return commit(events) },
	})
	err := s.run()
	if err == nil {
		err = j.adopt(s)
	}
	if err != nil {
		return j.fail(err)
	}
	j.ready = true
	return nil
}

// adopt makes what the survey saw durable, removes leftovers and opens the
// segment that is written next. After a crash within, the same survey results.
func (j *Journal) adopt(s *survey) error {
	j.id, j.next, j.since = j.cfg.ID, s.next, s.report.Bytes
	if s.found {
		j.id = s.id
	}
	j.seed = seed(j.id)
	if s.report.Checkpoint != nil {
		j.checkpoint = s.report.Checkpoint.File
	}
	// What was read may not be durable yet: written in the mode OS, or by a
	// process that died before its sync. Nothing is removed before it is.
	if err := j.secure(s); err != nil {
		return err
	}
	if s.found || len(s.useless) > 0 {
		if err := j.syncDir(); err != nil {
			return err
		}
	}
	if err := j.remove(s.useless); err != nil {
		return err
	}
	return j.openLast(s)
}

// secure syncs every file that was read, and writes the patches.
func (j *Journal) secure(s *survey) error {
	if j.checkpoint != "" {
		if err := j.syncFile(j.checkpoint, patch{}); err != nil {
			return err
		}
	}
	for _, first := range s.segments {
		if err := j.syncFile(segmentName(first), s.patches[first]); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) syncFile(name string, p patch) error {
	f, err := j.fs.Open(name)
	if err != nil {
		return failed("open", name, err)
	}
	if len(p.bytes) > 0 {
		err = j.write(f, name, p.bytes, p.off)
	}
	if err == nil {
		err = j.sync(f, name)
	}
	return errors.Join(err, failed("close", name, f.Close()))
}

func (j *Journal) openLast(s *survey) error {
	if len(s.segments) == 0 {
		cur, err := j.newSegment(j.cfg.SegmentBytes)
		if err != nil {
			return err
		}
		j.cur, j.name, j.off, j.size = cur, segmentName(j.next), headerBytes, j.cfg.SegmentBytes
		return nil
	}
	last := len(s.segments) - 1
	for _, first := range s.segments[:last] {
		j.old = append(j.old, segmentName(first))
	}
	j.name, j.off = segmentName(s.segments[last]), s.end
	j.size = s.report.Segments[last].Size
	cur, err := j.fs.Open(j.name)
	if err != nil {
		return failed("open", j.name, err)
	}
	j.cur = cur
	return nil
}
