package journal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

const (
	seg1  = "00000000000000000001.segment"
	seg5  = "00000000000000000005.segment"
	seg9  = "00000000000000000009.segment"
	check = "00000000000000000006.checkpoint"
)

// history is a directory with ten commits in three segments.
func history(t *testing.T) *simfs.FS {
	t.Helper()
	fs := simfs.New(1)
	var m model
	j := mustOpen(t, fs, small(), &m)
	mustCommit(t, j, &m, 10)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != seg1+" "+seg5+" "+seg9 {
		t.Fatalf("segments %s", got)
	}
	return fs
}

// checkpointed goes on with a checkpoint after commit 6 and one commit after it.
func checkpointed(t *testing.T) *simfs.FS {
	t.Helper()
	fs := simfs.New(1)
	var m model
	j := mustOpen(t, fs, small(), &m)
	mustCommit(t, j, &m, 6)
	if err := j.Checkpoint(m.state()); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, j, &m, 1)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// damage changes one file's bytes.
func damage(fs *simfs.FS, name string, change func(b []byte) []byte) {
	fs.Put(name, change(fs.Content(name)))
}

func flip(off int) func(b []byte) []byte {
	return func(b []byte) []byte { b[off] ^= 0x10; return b }
}

// reseal makes a changed header valid again.
func reseal(b []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], table))
	return b
}

func TestTableOfDamage(t *testing.T) {
	other := func() *simfs.FS { // the same history of another journal
		fs := simfs.New(1)
		cfg := small()
		cfg.ID = 0xe71
		var m model
		j := mustOpen(t, fs, cfg, &m)
		mustCommit(t, j, &m, 10)
		return fs
	}
	tests := []struct {
		what   string
		from   func(*testing.T) *simfs.FS
		damage func(fs *simfs.FS)
		reason error
		file   string
		off    int64
	}{
		{"a flipped bit, valid commits behind it", history, func(fs *simfs.FS) { damage(fs, seg1, flip(300)) }, journal.ErrCorrupt, seg1, 232},
		{"a flipped length, valid commits behind it", history, func(fs *simfs.FS) { damage(fs, seg1, flip(132)) }, journal.ErrCorrupt, seg1, 128},
		{"a flipped bit in the last commit of a full segment", history, func(fs *simfs.FS) { damage(fs, seg1, flip(390)) }, journal.ErrCorrupt, seg1, 368},
		{"a damaged seal", history, func(fs *simfs.FS) { damage(fs, seg1, flip(433)) }, journal.ErrCorrupt, seg1, 424},
		{"bytes behind a seal", history, func(fs *simfs.FS) { damage(fs, seg1, flip(500)) }, journal.ErrCorrupt, seg1, 448},
		{"a flipped bit in the last commit of all", history, func(fs *simfs.FS) { damage(fs, seg9, flip(90)) }, journal.ErrCorrupt, seg9, 64},
		{"the last commit's length made smaller", history, func(fs *simfs.FS) {
			at := lastRecord(fs)
			damage(fs, seg9, func(b []byte) []byte { b[at+4]--; return b })
		}, journal.ErrCorrupt, seg9, -1},
		{"the last commit's mark gone, valid otherwise", history, func(fs *simfs.FS) {
			damage(fs, seg9, func(b []byte) []byte { n := len(bytes.TrimRight(b, "\x00")); b[n-1] = 1; return b })
		}, journal.ErrCorrupt, seg9, -1},
		{"a commit twice", history, func(fs *simfs.FS) {
			damage(fs, seg9, func(b []byte) []byte {
				n := (len(bytes.TrimRight(b, "\x00")) + 7) / 8 * 8
				copy(b[n:], b[64:n])
				return b
			})
		}, journal.ErrCorrupt, seg9, -1},
		{"a seal gone, and the next segment's header damaged", history, func(fs *simfs.FS) {
			damage(fs, seg5, func(b []byte) []byte { clear(b[424:]); return b })
			damage(fs, seg9, flip(24))
		}, journal.ErrCorrupt, seg9, 0},
		{"a seal gone", history, func(fs *simfs.FS) {
			damage(fs, seg5, func(b []byte) []byte { clear(b[424:]); return b })
		}, journal.ErrCorrupt, seg5, 424},
		{"the first segment gone", history, func(fs *simfs.FS) { fs.Put(seg1, nil) }, journal.ErrMissing, seg1, 0},
		{"a middle segment gone", history, func(fs *simfs.FS) { fs.Put(seg5, nil) }, journal.ErrMissing, seg5, 0},
		{"the last segment gone", history, func(fs *simfs.FS) { fs.Put(seg9, nil) }, journal.ErrMissing, seg9, 0},
		{"a segment cut short", history, func(fs *simfs.FS) { damage(fs, seg5, func(b []byte) []byte { return b[:400] }) }, journal.ErrCorrupt, seg5, 400},
		{"a segment cut in its header", history, func(fs *simfs.FS) { damage(fs, seg5, func(b []byte) []byte { return b[:40] }) }, journal.ErrCorrupt, seg5, 40},
		{"an empty segment", history, func(fs *simfs.FS) { fs.Put(seg9, []byte{}) }, journal.ErrCorrupt, seg9, 0},
		{"a segment of zeros", history, func(fs *simfs.FS) { fs.Put(seg9, make([]byte, 512)) }, journal.ErrForeign, seg9, 0},
		{"a flipped bit in a header", history, func(fs *simfs.FS) { damage(fs, seg9, flip(24)) }, journal.ErrCorrupt, seg9, 0},
		{"a text file under a segment's name", history, func(fs *simfs.FS) { fs.Put(seg9, bytes.Repeat([]byte("hello "), 30)) }, journal.ErrForeign, seg9, 0},
		{"a segment of a later version", history, func(fs *simfs.FS) {
			damage(fs, seg1, func(b []byte) []byte { b[8] = 2; return reseal(b) })
		}, journal.ErrVersion, seg1, 8},
		{"a segment of another journal", history, func(fs *simfs.FS) { fs.Put(seg5, other().Content(seg5)) }, journal.ErrForeign, seg5, 0},
		{"a segment under another's name", history, func(fs *simfs.FS) { fs.Put(seg9, fs.Content(seg5)) }, journal.ErrForeign, seg9, 0},
		{"a name that is no number", history, func(fs *simfs.FS) { fs.Put("copy of 1.segment", []byte("x")) }, journal.ErrForeign, "copy of 1.segment", 0},
		{"a segment number too small", history, func(fs *simfs.FS) { fs.Put("00000000000000000000.segment", []byte("x")) }, journal.ErrForeign, "00000000000000000000.segment", 0},
		{"a checkpoint number too large", history, func(fs *simfs.FS) { fs.Put("18446744073709551615.checkpoint", []byte("x")) }, journal.ErrForeign, "18446744073709551615.checkpoint", 0},

		{"a checkpoint's state damaged", checkpointed, func(fs *simfs.FS) { damage(fs, check, flip(70)) }, journal.ErrCorrupt, check, 64},
		{"a checkpoint's header damaged", checkpointed, func(fs *simfs.FS) { damage(fs, check, flip(33)) }, journal.ErrCorrupt, check, 0},
		{"a checkpoint cut short", checkpointed, func(fs *simfs.FS) { damage(fs, check, func(b []byte) []byte { return b[:70] }) }, journal.ErrCorrupt, check, 70},
		{"an empty checkpoint", checkpointed, func(fs *simfs.FS) { fs.Put(check, []byte{}) }, journal.ErrCorrupt, check, 0},
		{"a checkpoint of a later version", checkpointed, func(fs *simfs.FS) {
			damage(fs, check, func(b []byte) []byte { b[8] = 9; return reseal(b) })
		}, journal.ErrVersion, check, 8},
		{"a checkpoint under another's name", checkpointed, func(fs *simfs.FS) {
			fs.Put("00000000000000000007.checkpoint", fs.Content(check))
		}, journal.ErrForeign, "00000000000000000007.checkpoint", 0},
		{"a checkpoint without segments", checkpointed, func(fs *simfs.FS) { fs.Put(seg5, nil) }, journal.ErrMissing, "00000000000000000007.segment", 0},
		{"a checkpoint gone", checkpointed, func(fs *simfs.FS) { fs.Put(check, nil) }, journal.ErrMissing, seg1, 0},
		{"a checkpoint of another journal", checkpointed, func(fs *simfs.FS) {
			o := other()
			var m model
			j, err := open(o, small(), &m)
			if err == nil {
				err = j.Checkpoint(m.state())
			}
			if err != nil {
				t.Fatal(err)
			}
			fs.Put("00000000000000000010.checkpoint", o.Content("00000000000000000010.checkpoint"))
		}, journal.ErrForeign, seg5, 0},
		{"commits gone that the checkpoint covers", checkpointed, func(fs *simfs.FS) {
			damage(fs, seg5, func(b []byte) []byte { clear(b[64:]); return b })
		}, journal.ErrCorrupt, seg5, 64},
	}
	for _, test := range tests {
		fs := test.from(t)
		test.damage(fs)
		before := contents(t, fs)
		var m model
		_, err := open(fs, small(), &m)
		_, verified := journal.Verify(fs, nil, nil)
		var refused *journal.RefusedError
		if !errors.Is(err, test.reason) || !errors.As(err, &refused) || fmt.Sprint(err) != fmt.Sprint(verified) {
			t.Errorf("%s: %v; verify: %v", test.what, err, verified)
			continue
		}
		if refused.File != test.file || test.off >= 0 && refused.Offset != test.off || !strings.Contains(err.Error(), "nothing was changed; ") {
			t.Errorf("%s: %v", test.what, err)
		}
		if !maps.Equal(before, contents(t, fs)) {
			t.Errorf("%s: the directory was changed", test.what)
		}
	}
	t.Logf("%d kinds of damage", len(tests))
}

// lastRecord is the offset of the last record of history.
func lastRecord(fs *simfs.FS) int {
	b, at := fs.Content(seg9), 64
	for {
		size := (16 + int(binary.LittleEndian.Uint32(b[at+4:])) + 1 + 7) / 8 * 8
		if binary.LittleEndian.Uint64(b[at+size+8:]) == 0 {
			return at
		}
		at += size
	}
}

func contents(t *testing.T, fs *simfs.FS) map[string]string {
	t.Helper()
	list, err := fs.List()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range list {
		all[name] = string(fs.Content(name))
	}
	return all
}

// opens says whether a damaged directory is recovered, how many commits it then
// has, and fails the test for wrong bytes or a refusal without a reason.
func opens(t *testing.T, fs *simfs.FS, what string) (uint64, bool) {
	t.Helper()
	var m model
	j, err := open(fs, small(), &m)
	var refused *journal.RefusedError
	if errors.As(err, &refused) {
		return 0, false
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	// What was recovered must be a journal that goes on and is found again.
	n := m.n
	mustCommit(t, j, &m, 3)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	fs.Restart(simfs.Drop)
	if again := recovered(t, fs, m.n, what); again != n+3 {
		t.Fatalf("%s: %d commits, want %d", what, again, n+3)
	}
	return n, true
}

func TestEveryBitFlipped(t *testing.T) {
	for _, from := range []func(*testing.T) *simfs.FS{history, checkpointed} {
		original := from(t)
		whole, _ := opens(t, original.Clone(), "undamaged")
		results := map[string]int{}
		for name, content := range contents(t, original) {
			for bit := range len(content) * 8 {
				fs := original.Clone()
				damage(fs, name, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b })
				n, ok := opens(t, fs, fmt.Sprintf("%s bit %d", name, bit))
				switch {
				case !ok:
					results["refused"]++
				case n == whole:
					results["whole"]++
				case n == whole-1:
					results["last commit lost"]++
				default:
					t.Fatalf("%s bit %d: %d commits of %d recovered", name, bit, n, whole)
				}
			}
		}
		t.Logf("%v", results)
		// Only a length that grows passes for a torn write; see the package comment.
		if results["last commit lost"] > 32 {
			t.Errorf("the last commit was lost %d times", results["last commit lost"])
		}
	}
}

func TestCutAtEveryByte(t *testing.T) {
	original := history(t)
	names := slices.Sorted(maps.Keys(contents(t, original)))
	for _, name := range names {
		content := original.Content(name)
		for n := range len(content) {
			what := fmt.Sprintf("%s cut at %d", name, n)
			fs := original.Clone()
			fs.Put(name, content[:n])
			if _, ok := opens(t, fs, what); ok {
				t.Errorf("%s: accepted", what)
			}
		}
	}
}

// TestWriteCutAtEveryByte leaves the first bytes of the last commit, or all its
// sectors but some, as a write does that the power cut short.
func TestWriteCutAtEveryByte(t *testing.T) {
	for _, size := range []int{1, 30, 2000} {
		fs := simfs.New(1)
		cfg := journal.Config{SegmentBytes: 4096, ID: 1}
		j, err := journal.Open(fs, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Recover(nil, nil); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{[]byte("first"), bytes.Repeat([]byte{7}, size)} {
			if err := j.Commit(b); err != nil {
				t.Fatal(err)
			}
		}
		whole := fs.Content(seg1)
		end := len(bytes.TrimRight(whole, "\x00"))
		for n := 64 + 24; n < end; n++ {
			b := bytes.Clone(whole)
			clear(b[n:])
			torn(t, fs, b, fmt.Sprintf("%d bytes, cut at %d", size, n))
		}
		sectors := (end + 511) / 512
		for mask := range 1<<sectors - 1 { // at least one is not written
			b := bytes.Clone(whole)
			for s := range sectors {
				if mask>>s&1 == 0 {
					clear(b[max(64+24, s*512):min(end, s*512+512)])
				}
			}
			torn(t, fs, b, fmt.Sprintf("%d bytes, sectors %b", size, mask))
		}
	}
}

func torn(t *testing.T, fs *simfs.FS, content []byte, what string) {
	t.Helper()
	fs = fs.Clone()
	fs.Put(seg1, content)
	report, err := journal.Verify(fs, nil, nil)
	if err != nil || report.Commits != 1 {
		t.Fatalf("%s: %+v, %v", what, report, err)
	}
	if clean := isZero(content[88:]); clean != (report.Torn == nil) {
		t.Fatalf("%s: torn %+v", what, report.Torn)
	}
	var seen int
	j, err := journal.Open(fs, journal.Config{SegmentBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	err = j.Recover(nil, func(b []byte) error {
		seen++
		if string(b) != "first" {
			t.Errorf("%s: commit %q", what, b)
		}
		return nil
	})
	if err != nil || seen != 1 {
		t.Fatalf("%s: %d commits, %v", what, seen, err)
	}
	if b := fs.Content(seg1); !isZero(b[88:]) {
		t.Fatalf("%s: not zeroed", what)
	}
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func TestVerifyReports(t *testing.T) {
	fs := checkpointed(t)
	fs.Put(seg1, []byte("old"))
	fs.Put("x.segment.tmp", []byte("part"))
	fs.Put("lock", []byte("12"))
	damage(fs, seg5, func(b []byte) []byte { b[401] = 1; return b })
	before := contents(t, fs)
	var state, commits int
	report, err := journal.Verify(fs,
		func(uint64, []byte) error { state++; return nil },
		func(index uint64, b []byte) error {
			commits++
			if index != 7 || !bytes.Equal(b, event(7)) {
				t.Errorf("commit %d: % x", index, b)
			}
			return nil
		})
	if err != nil || state != 1 || commits != 1 || report.Commits != 1 || report.Bytes != int64(len(event(7))) {
		t.Fatalf("%+v, %v", report, err)
	}
	if c := report.Checkpoint; c.File != check || c.Last != 6 || c.Bytes != 16 {
		t.Errorf("checkpoint %+v", c)
	}
	if s := report.Segments; len(s) != 1 || s[0].File != seg5 || s[0].First != 5 || s[0].Commits != 3 || s[0].Size != 512 || s[0].Sealed {
		t.Errorf("segments %+v", s)
	}
	if report.Torn == nil || report.Torn.File != seg5 || len(report.Leftovers) != 2 {
		t.Errorf("torn %+v, leftovers %v", report.Torn, report.Leftovers)
	}
	if !maps.Equal(before, contents(t, fs)) {
		t.Error("the directory was changed")
	}
	mine := errors.New("mine")
	if _, err := journal.Verify(fs, func(uint64, []byte) error { return mine }, nil); !errors.Is(err, mine) {
		t.Errorf("error of the function: %v", err)
	}
	if report, err := journal.Verify(simfs.New(1), nil, nil); err != nil || len(report.Segments) != 0 {
		t.Errorf("an empty directory: %+v, %v", report, err)
	}
}
