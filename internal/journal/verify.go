package journal

// Report is what a directory holds.
type Report struct {
	Checkpoint *CheckpointReport // nil without one
	Segments   []SegmentReport   // in order; those that are leftovers left out
	Commits    uint64            // after the checkpoint
	Bytes      int64             // of these commits
	Torn       *TornReport       // nil when the journal ends cleanly
	Leftovers  []string          // files that the next recovery removes
}

// CheckpointReport is the checkpoint that a recovery starts from.
type CheckpointReport struct {
	File  string
	Last  uint64 // the last commit that it covers
	Bytes int64
}

// SegmentReport is one segment.
type SegmentReport struct {
	File    string
	First   uint64 // index of its first commit
	Commits uint64
	Bytes   int64 // of its commits
	Size    int64 // of the file
	Sealed  bool  // another segment follows
}

// TornReport is an incomplete last commit, which the next recovery cuts off.
type TornReport struct {
	File   string
	Offset int64
	Bytes  int64
}

// Verify reads a directory as Recover would and changes nothing; ReadDir is the
// FS for it. It hands over the checkpoint's state and each commit after it with
// its index, if the functions are not nil; the slices are valid during the call
// only. With an error, a RefusedError if the journal is damaged, the report goes
// as far as was read. A directory without a journal has an empty report.
func Verify(
	fs FS,
	checkpoint func(last uint64, state []byte) error,
	commit func(index uint64, events []byte) error,
) (Report, error) {
	s := newSurvey(fs, visitor{checkpoint: checkpoint, commit: commit})
	err := s.run()
	return s.report, err
}
