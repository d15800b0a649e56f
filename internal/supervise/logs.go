package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A supervised child logs to a file, not to its launcher: a full pipe would block it, and a broken
// one kill it. The launcher reads the file after it and gives the lines out with their levels.

const (
	tailEvery = 100 * time.Millisecond
	tailBytes = 64 << 10    // read at a time; a longer line is given out in pieces
	tailEnd   = time.Second // for what is left at the end: a log that nobody takes holds nobody up
)

type tail struct{ done, ended chan struct{} }

// tailLog follows a file from its present end. Failed is called with each error that it tells.
func tailLog(path string, logger hclog.Logger, failed func(text string)) *tail {
	t := &tail{make(chan struct{}), make(chan struct{})}
	var from int64
	if info, err := os.Stat(path); err == nil {
		from = info.Size()
	}
	go func() {
		defer close(t.ended)
		for {
			select {
			case <-time.After(tailEvery):
				from = readLog(path, from, logger, failed)
			case <-t.done:
				readLog(path, from, logger, failed)
				return
			}
		}
	}()
	return t
}

// stop reads what is left.
func (t *tail) stop() {
	close(t.done)
	select {
	case <-t.ended:
	case <-time.After(tailEnd):
	}
}

// readLog gives out the whole lines after an offset and returns the new offset.
func readLog(path string, from int64, logger hclog.Logger, failed func(string)) int64 {
	info, err := os.Lstat(path)
	if err != nil || info.Size() == from {
		return from
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // a child's log
	if err != nil {
		return from
	}
	defer func() { _ = f.Close() }()
	if info.Size() < from {
		from = 0 // the child has begun a new file
	}
	buf := make([]byte, tailBytes)
	for {
		n, _ := f.ReadAt(buf, from)
		end := bytes.LastIndexByte(buf[:n], '\n') + 1
		if end == 0 && n == len(buf) {
			end = n
		}
		if end == 0 {
			return from
		}
		for line := range bytes.Lines(buf[:end]) {
			giveOut(bytes.TrimSpace(line), logger, failed)
		}
		from += int64(end)
	}
}

// giveOut logs a line of hclog's JSON form at its own level; anything else as it is.
func giveOut(line []byte, logger hclog.Logger, failed func(string)) {
	var fields map[string]any
	if len(line) == 0 {
		return
	}
	if json.Unmarshal(line, &fields) != nil {
		logger.Info(string(line))
		return
	}
	level, _ := fields["@level"].(string)
	message, _ := fields["@message"].(string)
	var pairs []any
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if key != "" && key[0] != '@' {
			pairs = append(pairs, key, fields[key])
		}
	}
	if hclog.LevelFromString(level) == hclog.Error {
		failed(fmt.Sprintf("%s: %v", message, fields["err"]))
	}
	logger.Log(hclog.LevelFromString(level), message, pairs...)
}
