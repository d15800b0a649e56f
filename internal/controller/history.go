package controller

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
	"syscall"
)

// HistoryFile holds every snapshot of the bank, in the data directory, one Record per line.
const HistoryFile = "snapshots.jsonl"

// openHistory opens the file for appending. A line that a crash cut off must not swallow the next one.
func openHistory(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, HistoryFile), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // of the data directory
	if err != nil {
		return nil, fmt.Errorf("open the history of snapshots: %w", err)
	}
	if err := endTornLine(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func endTornLine(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil {
		return fmt.Errorf("read the end of %s: %w", f.Name(), err)
	}
	if last[0] == '\n' {
		return nil
	}
	if _, err := f.WriteString("\n"); err != nil {
		return fmt.Errorf("end a torn line of %s: %w", f.Name(), err)
	}
	return nil
}

// appendRecord writes a line at once, so that two controllers that share the directory never mix theirs.
func appendRecord(f *os.File, r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write snapshot %d: %w", r.SnapshotID, err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("append snapshot %d: %w", r.SnapshotID, err)
	}
	return nil
}

// eachLine calls f with every line of the history in order. No file is no line.
func eachLine(dir string, f func(line []byte)) error {
	file, err := os.OpenFile(filepath.Join(dir, HistoryFile), os.O_RDONLY|syscall.O_NOFOLLOW, 0) //nolint:gosec // of the data directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the history of snapshots: %w", err)
	}
	defer func() { _ = file.Close() }()
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			f(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the history of snapshots: %w", err)
		}
	}
}

// highestSnapshot is the highest id in the history, 0 when it is empty. A line that can't be read
// is a torn write and counts as none.
func highestSnapshot(dir string) (uint64, error) {
	var highest uint64
	err := eachLine(dir, func(line []byte) {
		var r struct {
			SnapshotID uint64 `json:"snapshot_id"`
		}
		if json.Unmarshal(line, &r) == nil {
			highest = max(highest, r.SnapshotID)
		}
	})
	return highest, err
}

// ReadSnapshot finds a snapshot in the history of a data directory. When it is there more than once
// (incomplete first, or taken by two controllers), a complete one is returned, the last of them.
func ReadSnapshot(dir string, id uint64) (Record, error) {
	var found Record
	err := eachLine(dir, func(line []byte) {
		var r Record
		if json.Unmarshal(line, &r) != nil || r.SnapshotID != id {
			return
		}
		if found.Schema == "" || r.Status != Incomplete || found.Status == Incomplete {
			found = r
		}
	})
	if err != nil {
		return Record{}, err
	}
	if found.Schema == "" {
		return Record{}, fmt.Errorf("snapshot %d is not in %s", id, filepath.Join(dir, HistoryFile))
	}
	if found.Schema != RecordSchema {
		return Record{}, fmt.Errorf("snapshot %d in %s has the schema %q: this program reads %s",
			id, filepath.Join(dir, HistoryFile), found.Schema, RecordSchema)
	}
	return found, nil
}
