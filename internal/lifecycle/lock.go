package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// ExitLocked is the exit code of a program that finds its directory in use (EX_TEMPFAIL).
const ExitLocked = 75

// HeldError is a directory that another process has locked.
type HeldError struct {
	Dir string
	PID int // 0: not known
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("data directory %s is in use by another process: stop it first", e.Dir)
	}
	return fmt.Sprintf("data directory %s is in use by pid %d: stop it first", e.Dir, e.PID)
}

// Lock takes a directory for this process alone, until the process ends or the lock is released. It
// makes the directory when it is not there. The file (name in dir) holds the pid. Errors: *HeldError,
// a symbolic link in place of either, or the file system's.
func Lock(dir, name string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, name)
	for _, p := range []string{dir, path} {
		if info, err := os.Lstat(p); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s is a symbolic link: a data directory and its files are real", p)
		}
	}
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		content, _ := os.ReadFile(path) //nolint:gosec // the lock of our own directory
		pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
		return nil, &HeldError{Dir: dir, PID: pid}
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = lock.Close() }, nil
}
