package journal_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// FuzzRecover puts any bytes under a segment's and a checkpoint's name: they are
// recovered or refused with a reason, Verify and Recover agree, a refusal changes
// nothing, and what was recovered is a journal that goes on.
func FuzzRecover(f *testing.F) {
	f.Fuzz(func(t *testing.T, segment, checkpoint []byte) {
		fs := simfs.New(1)
		if len(segment) > 0 {
			fs.Put(seg5, segment)
		}
		if len(checkpoint) > 0 {
			fs.Put(check, checkpoint)
		}
		before := contents(t, fs)
		report, verified := journal.Verify(fs, nil, nil)

		j, err := journal.Open(fs, small())
		if err != nil {
			t.Fatal(err)
		}
		var commits uint64
		count := func([]byte) error { commits++; return nil }
		err = j.Recover(func([]byte) error { return nil }, count)
		if (err == nil) != (verified == nil) || commits != report.Commits {
			t.Fatalf("recover: %d commits, %v; verify: %+v, %v", commits, err, report, verified)
		}
		var refused *journal.RefusedError
		if err != nil {
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			if !maps.Equal(before, contents(t, fs)) {
				t.Fatal("refused and changed")
			}
			return
		}
		if err := j.Commit([]byte("next")); err != nil {
			t.Fatal(err)
		}
		fs.Restart(simfs.Drop)
		if again, err := journal.Verify(fs, nil, nil); err != nil || again.Commits != commits+1 {
			t.Fatalf("after a commit: %+v, %v", again, err)
		}
	})
}

// TestFuzzCorpus keeps the committed corpus in step with the format: UPDATE=1
// writes it.
func TestFuzzCorpus(t *testing.T) {
	fs := checkpointed(t)
	segment, checkpoint := fs.Content(seg5), fs.Content(check)
	short := fs.Clone()
	damage(short, seg5, func(b []byte) []byte { clear(b[190:]); return b })
	for name, pair := range map[string][2][]byte{
		"whole":        {segment, checkpoint},
		"nothing":      {nil, nil},
		"torn":         {short.Content(seg5), checkpoint},
		"nocheckpoint": {segment, nil},
		"nosegment":    {nil, checkpoint},
	} {
		golden(t, "fuzz/FuzzRecover/"+name, corpus(pair[:]))
	}
}

// corpus is the file format of go test's fuzzing.
func corpus(args [][]byte) string {
	text := "go test fuzz v1\n"
	for _, b := range args {
		text += fmt.Sprintf("[]byte(%q)\n", b)
	}
	return text
}
