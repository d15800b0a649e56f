package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"cutbank/internal/branch"
	"cutbank/internal/journal"
)

// The names of transfers: an account of what each branch durably sent and received that does not know
// the ledger's counts, nor its code. Each process of a branch keeps a file of the commits that became
// durable, written before Commit returns and so before any of their effects leaves. A process that is
// killed between the two leaves a commit that is in the journal and not in the file: the next one finds
// it there, by the journal's own index, before it does anything. At the end the checker decodes the
// commits by a decoder of its own and compares, for each channel, the names at its two ends.
//
//	record: index u64 | length u32 | CRC-32 of the events u32 | events
//
// The files end where a kill cut them off; nothing was let out for a record that is cut.

const recordHead = 16

// namesLog wraps the journal of a branch.
type namesLog struct {
	branch.Journal
	branchDir string
	prefix    string
	file      *os.File
	next      uint64 // index of the next commit
	buf       []byte
}

// newNamesLog begins the file of this process and tells its number, from 1.
func newNamesLog(j branch.Journal, branchDir, scratch, name string) (*namesLog, int, error) {
	l := &namesLog{Journal: j, branchDir: branchDir, prefix: filepath.Join(scratch, name+".names-")}
	for run := 1; ; run++ {
		f, err := os.OpenFile(fmt.Sprintf("%s%04d", l.prefix, run), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		l.file = f
		return l, run, err
	}
}

// Recover first writes down the commits that the process before was killed upon.
func (l *namesLog) Recover(checkpoint, commit func([]byte) error) error {
	files, err := filepath.Glob(l.prefix + "*")
	if err != nil {
		return err
	}
	var logged uint64
	for i := len(files) - 1; i >= 0 && logged == 0; i-- { // the last one that has any
		if err := readNames(files[i], func(index uint64, _ []byte) error { logged = index; return nil }); err != nil {
			return err
		}
	}
	l.next = logged + 1
	fs, err := journal.ReadDir(l.branchDir)
	if err != nil {
		return err
	}
	_, err = journal.Verify(fs, func(last uint64, _ []byte) error {
		if last > logged {
			return fmt.Errorf("the names end at commit %d, the checkpoint covers %d", logged, last)
		}
		return nil
	}, func(index uint64, events []byte) error {
		if index != l.next {
			return nil // written down
		}
		return l.write(events)
	})
	if err != nil {
		return err
	}
	return l.Journal.Recover(checkpoint, commit)
}

// Commit implements branch.Journal.
func (l *namesLog) Commit(events []byte) error {
	if err := l.Journal.Commit(events); err != nil {
		return err
	}
	return l.write(events)
}

func (l *namesLog) write(events []byte) error {
	l.buf = binary.LittleEndian.AppendUint64(l.buf[:0], l.next)
	l.buf = binary.LittleEndian.AppendUint32(l.buf, uint32(len(events)))
	l.buf = binary.LittleEndian.AppendUint32(l.buf, crc32.ChecksumIEEE(events))
	l.buf = append(l.buf, events...)
	l.next++
	_, err := l.file.Write(l.buf)
	return err
}

// readNames reads the whole records of a file.
func readNames(path string, record func(index uint64, events []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(f, 1<<20)
	head := make([]byte, recordHead)
	var events []byte
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return nil // cut off
		}
		n := binary.LittleEndian.Uint32(head[8:])
		if n > journal.MaxCommit {
			return fmt.Errorf("%s: a record of %d bytes", path, n)
		}
		events = append(events[:0], make([]byte, n)...)
		if _, err := io.ReadFull(r, events); err != nil {
			return nil // cut off
		}
		if crc32.ChecksumIEEE(events) != binary.LittleEndian.Uint32(head[12:]) {
			return fmt.Errorf("%s: a record whose checksum is wrong", path)
		}
		if err := record(binary.LittleEndian.Uint64(head), events); err != nil {
			return err
		}
	}
}

// batch is what a commit says, as far as it matters here.
type batch struct {
	sent, received     func(peer int, name uint64)
	initiated, markers int
}

// decode reads a commit; ledger/event.go draws the format. Branches is the size of the roster.
func (b *batch) decode(events []byte, branches int) error {
	bad := false
	number := func() uint64 {
		v, n := binary.Uvarint(events)
		if n <= 0 {
			events, bad = nil, true
			return 0
		}
		events = events[n:]
		return v
	}
	for len(events) > 0 && !bad {
		head := number()
		switch peer, kind := int(head>>3), head&7; kind {
		case 1, 2: // sent
			var name uint64
			if number(); kind == 2 {
				name = number()
			}
			b.sent(peer, name)
		case 3, 7: // received
			for n := number(); n > 0 && !bad; n-- {
				var name uint64
				if number(); kind == 7 {
					name = number()
				}
				b.received(peer, name)
			}
		case 4: // marker
			number()
			number()
			b.markers++
		case 5: // acknowledged
			number()
		case 6:
			switch peer {
			case 0: // started
			case 6: // when the events after it were made
				number()
			case 1: // snapshot initiated
				number()
				number()
				b.initiated++
			case 2: // moved
				for range branches {
					n := number()
					if bad = bad || n > uint64(len(events)); !bad {
						events = events[n:]
					}
				}
			case 3: // opened: what follows in its batch is the start
				return nil
			default:
				bad = true
			}
		default:
			bad = true
		}
	}
	if bad {
		return errors.New("a commit that can't be decoded: has the format of events changed?")
	}
	return nil
}

// ends is the names that a branch sent and received, by peer.
type ends struct{ sent, received [][]uint64 }

// readEnds reads the files of branch i.
func readEnds(scratch string, i, branches int) (e ends, err error) {
	e.sent, e.received = make([][]uint64, branches), make([][]uint64, branches)
	last, index := uint64(0), uint64(0)
	var again error
	b := batch{
		sent: func(peer int, name uint64) {
			if name <= last { // the names of a branch grow, so they are unique
				again = fmt.Errorf("branch%d sent %x after %x", i+1, name, last)
			}
			last = name
			e.sent[peer] = append(e.sent[peer], name)
		},
		received: func(peer int, name uint64) { e.received[peer] = append(e.received[peer], name) },
	}
	files, err := filepath.Glob(filepath.Join(scratch, fmt.Sprintf("branch%d.names-*", i+1)))
	for _, f := range files {
		err = errors.Join(err, readNames(f, func(n uint64, events []byte) error {
			if index++; n != index {
				return fmt.Errorf("%s: commit %d where %d was due", f, n, index)
			}
			return b.decode(events, branches)
		}))
	}
	return e, errors.Join(err, again)
}

// checkNames compares the names at both ends of every channel, after a drain: each transfer that was
// sent was received once, in order, and nothing else was. It returns how many there were.
func checkNames(scratch string, branches int) (transfers int, err error) {
	all := make([]ends, branches)
	for i := range all {
		var err2 error
		all[i], err2 = readEnds(scratch, i, branches)
		err = errors.Join(err, err2)
	}
	for i := range all {
		for k := range all {
			out, in := all[i].sent[k], all[k].received[i]
			transfers += len(out)
			for n := range max(len(out), len(in)) {
				if n >= len(out) || n >= len(in) || out[n] != in[n] {
					err = errors.Join(err, fmt.Errorf("branch%d->branch%d: %d sent, %d received, they differ from transfer %d on",
						i+1, k+1, len(out), len(in), n+1))
					break
				}
			}
		}
	}
	return transfers, err
}

// TestNamesTellDifferences: the checker would notice.
func TestNamesTellDifferences(t *testing.T) {
	sent := []byte{1<<3 | 2, 5, 100, 1<<3 | 2, 6, 101}
	for name, in := range map[string][]byte{
		"lost":      {0<<3 | 7, 1, 5, 100},
		"doubled":   {0<<3 | 7, 3, 5, 100, 6, 101, 6, 101},
		"reordered": {0<<3 | 7, 2, 6, 101, 5, 100},
		"nameless":  {0<<3 | 3, 2, 5, 6},
		"":          {0<<3 | 7, 1, 5, 100, 0<<3 | 4, 9, 9, 0<<3 | 7, 1, 6, 101},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for i, events := range [][]byte{sent, in} {
				l, _, err := newNamesLog(branch.Memory{}, "", dir, fmt.Sprintf("branch%d", i+1))
				if err != nil {
					t.Fatal(err)
				}
				l.next = 1
				if err := errors.Join(l.Commit(events), l.file.Close()); err != nil {
					t.Fatal(err)
				}
			}
			n, err := checkNames(dir, 2)
			t.Log(n, err)
			if (err != nil) != (name != "") {
				t.Errorf("%d transfers: %v", n, err)
			}
		})
	}
}
