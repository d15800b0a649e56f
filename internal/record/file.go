package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Files of a record, in the data directory.
const (
	EventsFile = "events.jsonl"
	ShiVizFile = "shiviz.log"
)

// Limits of a record: at full load it is full within seconds.
const (
	MaxBranches   = 64 // that are recorded: their events are of N(N−1) channels
	MaxFileBytes  = 256 << 20
	maxLine       = 1 << 20
	MaxShiVizLogs = 10_000 // events; it draws a page of them
)

// ErrFull says that events.jsonl has its most bytes: what happens after is not recorded.
var ErrFull = errors.New("the record is full")

// File is events.jsonl as it is written.
type File struct {
	f     *os.File
	w     *bufio.Writer
	bytes int64
	limit int64
}

// OpenFile opens the record of a data directory and goes on where it ended: the follower takes over every
// event that is there. A line that a crash cut off is removed; its event is written again. Limit is the
// most bytes it may have, 0 for MaxFileBytes.
func OpenFile(dir string, h Header, f *Follower, limit int64) (*File, error) {
	path := filepath.Join(dir, EventsFile)
	if limit == 0 {
		limit = MaxFileBytes
	}
	end, err := readFile(path, func(held Header) error {
		if !slices.Equal(held.Branches, h.Branches) {
			return fmt.Errorf("is of the branches %v", held.Branches)
		}
		return nil
	}, func(e *Event) error { f.Resume(e); return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // of the data directory
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	r := &File{f: file, w: bufio.NewWriterSize(file, 1<<20), bytes: end, limit: limit}
	if err = file.Truncate(end); err == nil {
		_, err = file.Seek(end, io.SeekStart)
	}
	if err == nil && end == 0 {
		err = r.write(h.line())
	}
	if err != nil {
		return nil, fmt.Errorf("record: %w", errors.Join(err, file.Close()))
	}
	return r, nil
}

func (r *File) write(line []byte) error {
	r.bytes += int64(len(line))
	_, err := r.w.Write(line)
	return err
}

// Append adds an event. Error: ErrFull, or the disk's.
func (r *File) Append(e *Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if r.bytes+int64(len(line)) >= r.limit {
		return ErrFull
	}
	return r.write(append(line, '\n'))
}

// Flush hands what was added to the system.
func (r *File) Flush() error { return r.w.Flush() }

// Close flushes and closes.
func (r *File) Close() error { return errors.Join(r.w.Flush(), r.f.Close()) }

// ReadFile reads an events.jsonl: its header, then each event; the event may be kept. A last line that was
// cut off is left out.
func ReadFile(path string, header func(Header) error, event func(*Event) error) error {
	_, err := readFile(path, header, event)
	return err
}

// readFile also says where the last whole line ends.
func readFile(path string, header func(Header) error, event func(*Event) error) (end int64, err error) {
	file, err := openRegular(path)
	if err != nil {
		return 0, fmt.Errorf("record: %w", err)
	}
	defer func() { _ = file.Close() }()
	r := bufio.NewReaderSize(file, maxLine)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return end, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return end, fmt.Errorf("%s:%d: the line is longer than %d bytes", path, n, maxLine)
		case err != nil:
			return end, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if n == 1 {
			err = readHeader(line, header)
		} else {
			e := new(Event)
			if err = json.Unmarshal(line, e); err == nil {
				err = event(e)
			}
		}
		if err != nil {
			return end, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		end += int64(len(line))
	}
}

// openRegular opens a record that may be one, and waits for no writer of a pipe.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // a record
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: name the file that it leads to", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file", path)
	case info.Size() > MaxFileBytes:
		err = fmt.Errorf("%s has %d MiB: a record has %d at most", path, info.Size()>>20, MaxFileBytes>>20)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func readHeader(line []byte, header func(Header) error) error {
	var h Header
	if err := json.Unmarshal(line, &h); err != nil {
		return err
	}
	if h.Schema != Schema {
		return fmt.Errorf("has the schema %q: this program reads %s", h.Schema, Schema)
	}
	return header(h)
}

// ShiViz turns events.jsonl into shiviz.log beside it, which ShiViz reads with "choose file": its first line
// is the expression that takes a log apart, its second the one between executions, which is empty. It has
// the first MaxShiVizLogs events; cut tells that there were more.
func ShiViz(dir string) (cut bool, err error) {
	var b bytes.Buffer
	b.WriteString(`(?<host>\S+) (?<clock>{.*}) (?<date>\S+) (?<event>.*)` + "\n\n")
	n := 0
	err = ReadFile(filepath.Join(dir, EventsFile), func(Header) error { return nil }, func(e *Event) error {
		if n++; n > MaxShiVizLogs {
			cut = true
			return io.EOF
		}
		clock, err := json.Marshal(e.Clock)
		if err != nil {
			return err
		}
		at, err := e.At.MarshalText()
		fmt.Fprintf(&b, "%s %s %s %s\n", e.Branch, clock, at, e)
		return err
	})
	if err != nil && !cut {
		return false, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ShiVizFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // of the data directory
	if err == nil {
		_, err = f.Write(b.Bytes())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return cut, fmt.Errorf("record: %w", err)
	}
	return cut, nil
}
