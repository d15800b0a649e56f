package journal_test

import (
	"errors"
	"testing"

	"cutbank/internal/journal"
	"cutbank/internal/journal/simfs"
)

// mutant is a file system through which the journal breaks one of its rules.
type mutant struct {
	*simfs.FS
	noSync, noSyncDir, syncAgain bool
}

type mutantFile struct {
	journal.File
	m mutant
}

func (m mutant) Open(name string) (journal.File, error) {
	f, err := m.FS.Open(name)
	return mutantFile{f, m}, err
}

func (m mutant) Create(name string) (journal.File, error) {
	f, err := m.FS.Create(name)
	return mutantFile{f, m}, err
}

func (m mutant) SyncDir() error {
	if m.noSyncDir {
		return nil
	}
	return m.FS.SyncDir()
}

func (f mutantFile) Sync() error {
	if f.m.noSync {
		return nil
	}
	err := f.File.Sync()
	if err != nil && f.m.syncAgain && !f.m.Crashed() {
		return f.File.Sync()
	}
	return err
}

// TestBrokenRulesAreNoticed runs the scenario of the crash tests with one rule
// left out: the crash tests are worth something only if they notice.
func TestBrokenRulesAreNoticed(t *testing.T) {
	for what, broken := range map[string]mutant{
		"a commit is not synced":       {noSync: true},
		"the directory is not synced":  {noSyncDir: true},
		"a failed sync is tried again": {syncAgain: true},
	} {
		noticed := 0
		for step := 1; step <= 200; step++ {
			for _, cause := range []error{nil, errors.New("bad sector")} {
				broken.FS = simfs.New(1)
				broken.Fault = simfs.Fault{Step: step, Err: cause}
				var m, found model
				err := scenario(broken, small(), &m)
				if err == nil && cause == nil {
					continue // the scenario has fewer steps
				}
				broken.Restart(simfs.Drop)
				_, err = open(broken.FS, small(), &found)
				if err != nil || found.n < m.n {
					noticed++
				}
			}
		}
		t.Logf("%s: noticed %d times", what, noticed)
		if noticed == 0 {
			t.Errorf("%s, and nothing notices", what)
		}
	}
}
