package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-plugin"
)

// ExitLocked is the exit code of a program that finds its directory in use (EX_TEMPFAIL).
const ExitLocked = 75

// LockFile is the name of the lock in a branch's directory.
const LockFile = "lock"

// Holder is the process that has locked a directory, as its lock file tells:
//
//	812 10234567 /path/of/its/sockets
//	["its","arguments"]
//
// The start time (of the system's own unit) tells a process from a later one with the same pid. A process
// that was not started by a launcher has no sockets.
type Holder struct {
	PID     int
	Start   uint64
	Sockets string // directory of its health socket; empty: it stands alone
	Args    []string
}

// ReadHolder tells who holds a directory: nil when its lock file names no process that lives.
func ReadHolder(dir, name string) *Holder {
	content, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // the lock of our own directory
	first, args, _ := strings.Cut(string(content), "\n")
	fields := strings.SplitN(first, " ", 3)
	if err != nil || len(fields) < 2 {
		return nil
	}
	h := &Holder{}
	var startErr error
	h.PID, err = strconv.Atoi(fields[0])
	h.Start, startErr = strconv.ParseUint(fields[1], 10, 64)
	if len(fields) == 3 {
		h.Sockets = fields[2]
	}
	_ = json.Unmarshal([]byte(args), &h.Args) // else they are not known
	if err != nil || startErr != nil || !h.lives() {
		return nil
	}
	return h
}

func (h *Holder) lives() bool {
	start, alive := startTime(h.PID)
	return alive && start == h.Start
}

// WriteFile writes a file of a data directory, 0600. A symbolic link in its place is refused.
func WriteFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // of the data directory
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

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

// lastGasp is how long a lock may be held whose holder does not live.
const lastGasp = time.Second

// Lock takes a directory for this process alone, until the process ends or the lock is released. It
// makes the directory when it is not there. The file (name in dir) tells who holds it (Holder). Errors:
// *HeldError, a symbolic link in place of either, a directory that everybody can
// write, or the file system's.
func Lock(dir, name string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if info, err := os.Stat(dir); err == nil && info.Mode()&0o002 != 0 {
		return nil, fmt.Errorf("%s is everybody's to write: chmod o-w, or name another data directory", dir)
	}
	path := filepath.Join(dir, name)
	for _, p := range []string{dir, path} {
		if info, err := os.Lstat(p); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s is a symbolic link: a data directory and its files are real", p)
		}
	}
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	// Held by nobody who lives: by a process that is killed, which counts as dead before its files are closed, or
	// by one that has not written yet who it is.
	for end := time.Now().Add(lastGasp); err == nil && !ok && ReadHolder(dir, name) == nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		ok, err = lock.TryLock()
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		held := &HeldError{Dir: dir}
		if h := ReadHolder(dir, name); h != nil {
			held.PID = h.PID
		}
		return nil, held
	}
	start, alive := startTime(os.Getpid())
	if !alive {
		return nil, errors.Join(errors.New("the system does not tell when this process was started"), lock.Close())
	}
	line := fmt.Sprintf("%d %d", os.Getpid(), start)
	if sockets := os.Getenv(plugin.EnvUnixSocketDir); Supervised() && sockets != "" {
		line += " " + sockets
	}
	args, _ := json.Marshal(os.Args[1:]) // strings always can be
	if err := WriteFile(path, append([]byte(line+"\n"), args...)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return func() { _ = lock.Close() }, nil
}
