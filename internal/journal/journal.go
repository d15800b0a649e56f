package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"cutbank/internal/rules"
)

// MaxCommit is the most bytes that one commit may have.
const MaxCommit = 16 << 20

// maxCheckpoint is the most bytes that a checkpoint may have.
const maxCheckpoint = 1 << 30

// Sync says when a commit counts as durable.
type Sync uint8

const (
	// Always syncs each commit: it survives power loss.
	Always Sync = iota
	// OS leaves flushing to the kernel and syncs nothing: a commit survives the
	// death of the process but not of the machine, after which the journal may
	// be refused as corrupt.
	OS
)

func (s Sync) String() string {
	switch s {
	case Always:
		return "always"
	case OS:
		return "os"
	default:
		return fmt.Sprintf("Sync(%d)", uint8(s))
	}
}

// ParseSync reads the text of a Sync.
func ParseSync(text string) (Sync, error) {
	for _, s := range []Sync{Always, OS} {
		if text == s.String() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("sync %q is neither %v nor %v", text, Always, OS)
}

// Config holds a journal's settings; the zero value is the default.
type Config struct {
	// SegmentBytes is the size of a segment's file. Default 4 MiB. A commit that
	// is larger gets a segment of its own.
	SegmentBytes int64
	// Sync is always or os. Default Always.
	Sync Sync
	// SyncDelay is added to each sync of a commit, to act as a slower disk.
	// Default 0.
	SyncDelay time.Duration
	// ID marks the files of a new journal as its own. Default: drawn at random.
	ID uint64
	// Now measures syncs for Stats and decides nothing. Default time.Now.
	Now func() time.Time
}

// Validate says what is wrong with the settings.
func (c Config) Validate() error {
	switch {
	case c.SegmentBytes != 0 && (c.SegmentBytes < minSegment || c.SegmentBytes > maxSegment):
		return fmt.Errorf("journal: segment size %d is not between %d and %d", c.SegmentBytes, minSegment, maxSegment)
	case c.SegmentBytes%alignment != 0:
		return fmt.Errorf("journal: segment size %d is not a multiple of %d", c.SegmentBytes, alignment)
	case c.Sync != Always && c.Sync != OS:
		return fmt.Errorf("journal: unknown sync mode %v", c.Sync)
	case c.SyncDelay < 0:
		return fmt.Errorf("journal: sync delay %v is negative", c.SyncDelay)
	}
	return nil
}

// Stats counts what a journal has done since it was opened.
type Stats struct {
	Commits uint64
	Bytes   uint64 // of the commits, without the journal's own
	Syncs   uint64 // of commits
	// SyncMicrosLog2 is the histogram of sync times, SyncDelay included: bucket
	// i counts syncs of less than 2^i microseconds that are in no bucket before.
	SyncMicrosLog2 [32]uint64
	SyncMicrosSum  uint64
}

// Journal is an open journal. One goroutine at a time may call it. Once a call
// has failed, every later call returns the same error.
type Journal struct {
	fs    FS
	cfg   Config
	err   error // sticky
	ready bool  // recovered

	id    uint64
	seed  uint32
	next  uint64 // index of the next commit
	cur   File   // the segment that is written, nil before the recovery
	name  string // its name
	off   int64  // where the next record goes
	size  int64  // of cur
	old   []string
	since int64

	checkpoint string // the newest one's name, "" without one
	buf        []byte // a commit's record
	zeros      []byte
	spare      *blank // the segment after cur, as far as Prepare made it; may be nil
	stats      Stats
	broken     rules.Rule // that it does without; None
}

// Open checks the settings and nothing else: Recover reads the directory.
func Open(fs FS, cfg Config) (*Journal, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 4 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.ID == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		cfg.ID = binary.LittleEndian.Uint64(b[:])
	}
	return &Journal{fs: fs, cfg: cfg}, nil
}

// Commit stores events, which may not be empty, as one unit: a recovery finds
// all of them or none. It returns nil once they are durable. It does not keep
// the slice.
func (j *Journal) Commit(events []byte) error {
	if err := j.usable(); err != nil {
		return err
	}
	if len(events) == 0 {
		panic("journal: commit of nothing")
	}
	if len(events) > MaxCommit {
		return j.fail(fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(events), MaxCommit))
	}
	if need := recordBytes(len(events)) + sealBytes; j.off+need > j.size {
		if err := j.change(max(j.cfg.SegmentBytes, headerBytes+need)); err != nil {
			return j.fail(err)
		}
	}
	if err := j.append(events); err != nil {
		return j.fail(err)
	}
	j.next++
	j.since += int64(len(events))
	j.stats.Commits++
	j.stats.Bytes += uint64(len(events))
	return nil
}

// append writes and syncs one record at the end of the current segment.
func (j *Journal) append(events []byte) error {
	j.buf = appendRecord(j.buf[:0], j.seed, j.next, events)
	if err := j.write(j.cur, j.name, j.buf, j.off); err != nil {
		return err
	}
	j.off += int64(len(j.buf))
	if j.cfg.Sync == OS {
		return nil
	}
	start := j.cfg.Now()
	if j.cfg.SyncDelay > 0 {
		time.Sleep(j.cfg.SyncDelay)
	}
	if err := j.sync(j.cur, j.name); err != nil {
		return err
	}
	micros := uint64(max(0, j.cfg.Now().Sub(start).Microseconds()))
	j.stats.Syncs++
	j.stats.SyncMicrosSum += micros
	j.stats.SyncMicrosLog2[min(bits.Len64(micros), len(j.stats.SyncMicrosLog2)-1)]++
	return nil
}

// Checkpoint stores the state after the last commit; a recovery starts from it.
// It removes the segments before. It does not keep the slice.
func (j *Journal) Checkpoint(state []byte) error {
	if err := j.usable(); err != nil {
		return err
	}
	if len(state) > maxCheckpoint {
		return j.fail(fmt.Errorf("%w: checkpoint of %d bytes, at most %d", ErrTooLarge, len(state), maxCheckpoint))
	}
	if err := j.writeCheckpoint(state); err != nil {
		return j.fail(err)
	}
	name := checkpointName(j.next - 1)
	remove := j.old
	if j.checkpoint != "" && j.checkpoint != name {
		remove = append(remove, j.checkpoint)
	}
	j.checkpoint, j.since = name, 0
	if err := j.remove(remove); err != nil {
		return j.fail(err)
	}
	j.old = j.old[:0]
	return nil
}

func (j *Journal) writeCheckpoint(state []byte) error {
	name := checkpointName(j.next - 1)
	temp := name + tempSuffix
	f, err := j.fs.Create(temp)
	if err != nil {
		return failed("create", temp, err)
	}
	h := header{id: j.id, index: j.next - 1, size: uint64(len(state)), sum: checksum(j.seed, state)}
	err = j.write(f, temp, h.append(nil, checkpointMagic), 0)
	if err == nil && len(state) > 0 {
		err = j.write(f, temp, state, headerBytes)
	}
	if err == nil {
		err = j.sync(f, temp)
	}
	if err := errors.Join(err, failed("close", temp, f.Close())); err != nil {
		return err
	}
	return j.publish(temp, name)
}

// SinceCheckpoint is how many bytes were committed after the newest checkpoint,
// those that were recovered included. It may be called while Prepare is under way.
func (j *Journal) SinceCheckpoint() int64 { return j.since }

// Stats returns a copy of the counters.
func (j *Journal) Stats() Stats { return j.stats }

// Break switches one of the journal's rules off; other rules are not its business. It may be called
// after the recovery, when no other call is under way.
func (j *Journal) Break(r rules.Rule) {
	j.broken = r
	if r == rules.NoFsync {
		j.cfg.Sync = OS
	}
}

// Close releases the file. Nothing is left to write. The first error stays.
func (j *Journal) Close() error {
	if j.cur == nil {
		return nil
	}
	err := failed("close", j.name, j.cur.Close())
	if j.spare != nil {
		err = errors.Join(err, failed("close", j.spare.name, j.spare.Close()))
	}
	j.cur, j.spare = nil, nil
	if j.err == nil {
		j.err = ErrClosed
	}
	return err
}

// ---- what every write goes through ----

func (j *Journal) usable() error {
	if j.err == nil && !j.ready {
		panic("journal: used before it was recovered")
	}
	return j.err
}

func (j *Journal) fail(err error) error {
	j.err = err
	return err
}

func (j *Journal) write(f File, name string, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = fmt.Errorf("short write: %d of %d bytes", n, len(b))
	}
	return failed("write", name, err)
}

func (j *Journal) sync(f File, name string) error {
	if j.cfg.Sync == OS {
		return nil
	}
	err := f.Sync()
	if j.broken == rules.FsyncErrorIgnored {
		return nil
	}
	return failed("sync", name, err)
}

func (j *Journal) writeSync(f File, name string, b []byte, off int64) error {
	if err := j.write(f, name, b, off); err != nil {
		return err
	}
	return j.sync(f, name)
}

func (j *Journal) syncDir() error {
	if j.cfg.Sync == OS || j.broken == rules.NoDirectoryFsync {
		return nil
	}
	return failed("sync", ".", j.fs.SyncDir())
}

func (j *Journal) remove(list []string) error {
	for _, name := range list {
		if err := j.fs.Remove(name); err != nil {
			return failed("remove", name, err)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return j.syncDir()
}
