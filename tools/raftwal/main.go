// Raftwal compares the journal with hashicorp/raft-wal, the nearest library: records of 32 bytes a second, each
// batch synced. A module of its own, since that library brings raft, etcd and a dozen others along.
// Usage: raftwal DIR TIME; each line is a name, the records of a batch, and how many a second.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"cutbank/internal/journal"
)

const recordBytes = 32

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "raftwal:", err)
		os.Exit(1)
	}
}

func run(dir, text string) error {
	span, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	for _, batch := range []int{1, 16, 256, 4096} {
		for _, log := range []struct {
			name string
			open func(dir string, batch int) (func() error, error)
		}{{"journal", ours}, {"raft-wal", theirs}} {
			rate, err := measure(filepath.Join(dir, fmt.Sprint(log.name, batch)), batch, span, log.open)
			if err != nil {
				return err
			}
			fmt.Println(log.name, batch, rate)
		}
	}
	return nil
}

func measure(dir string, batch int, span time.Duration, open func(string, int) (func() error, error)) (float64, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	commit, err := open(dir, batch)
	began, records := time.Now(), 0
	for ; err == nil && time.Since(began) < span; records += batch {
		err = commit()
	}
	return float64(records) / time.Since(began).Seconds(), err
}

func ours(dir string, batch int) (commit func() error, err error) {
	fs, err := journal.Dir(dir)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(fs, journal.Config{})
	if err != nil {
		return nil, err
	}
	events := make([]byte, batch*recordBytes)
	return func() error {
		if err := j.Commit(events); err != nil {
			return err
		}
		return j.Prepare()
	}, j.Recover(nil, nil)
}

func theirs(dir string, batch int) (commit func() error, err error) {
	w, err := wal.Open(dir, wal.WithLogger(hclog.NewNullLogger()))
	logs, next := make([]*raft.Log, batch), uint64(0)
	for i := range logs {
		logs[i] = &raft.Log{Data: make([]byte, recordBytes)}
	}
	return func() error {
		for i := range logs {
			next++
			logs[i].Index = next
		}
		return w.StoreLogs(logs)
	}, err
}
