package journal

import (
	"errors"
	"fmt"
)

// Why a journal is refused; see RefusedError.
var (
	// ErrCorrupt: bytes that were durable have changed.
	ErrCorrupt = errors.New("corrupt")
	// ErrVersion: written by another version of cutbank.
	ErrVersion = errors.New("unknown format version")
	// ErrMissing: a file that must be there is not.
	ErrMissing = errors.New("file missing")
	// ErrForeign: a file of another journal, or none of a journal.
	ErrForeign = errors.New("foreign file")
)

// ErrClosed is what a closed journal answers.
var ErrClosed = errors.New("journal: closed")

// ErrTooLarge is a commit of more than MaxCommit bytes.
var ErrTooLarge = errors.New("journal: commit is larger than the limit")

// A RefusedError says why a journal can't be read. Nothing in the directory was
// changed.
type RefusedError struct {
	File   string
	Offset int64
	Reason error  // ErrCorrupt, ErrVersion, ErrMissing or ErrForeign
	Detail string // what was found, and what was expected
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("journal: %s at offset %d: %v: %s; nothing was changed; %s",
		e.File, e.Offset, e.Reason, e.Detail, e.advice())
}

func (e *RefusedError) advice() string {
	switch {
	case errors.Is(e.Reason, ErrVersion):
		return "open it with the version of cutbank that wrote it"
	case errors.Is(e.Reason, ErrForeign):
		return "move the file out of this directory"
	case errors.Is(e.Reason, ErrMissing):
		return "put the file back, or restore the bank from its last snapshot"
	default:
		return "restore the bank from its last snapshot"
	}
}

// Unwrap gives the reason.
func (e *RefusedError) Unwrap() error { return e.Reason }

func refuse(reason error, file string, offset int64, format string, args ...any) error {
	return &RefusedError{File: file, Offset: offset, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// A FailedError is an input or output operation that failed. The journal takes
// no further call: what is on the disk is known again only after a new recovery.
type FailedError struct {
	Op   string // create, read, write, sync, rename, remove, list, close
	File string // "." is the directory itself
	Err  error  // the cause: errors.Is(err, syscall.ENOSPC) and the like work
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("journal: %s %s: %v", e.Op, e.File, e.Err)
}

// Unwrap gives the cause.
func (e *FailedError) Unwrap() error { return e.Err }

func failed(op, file string, err error) error {
	if err == nil {
		return nil
	}
	return &FailedError{Op: op, File: file, Err: err}
}
