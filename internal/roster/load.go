package roster

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// Load reads a roster file. Errors are *Error: the file can't be read (the cause is wrapped), or
// Parse finds something wrong in it.
func Load(path string) (Roster, error) {
	// Before it is opened: opening a named pipe waits for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return Roster{}, loadError(path, err)
	}
	if !info.Mode().IsRegular() {
		problem := "not a regular file: name a file with one `<name> <ip> <port>` per line"
		if info.IsDir() {
			problem = "this is a directory: name a file with one `<name> <ip> <port>` per line"
		}
		return Roster{}, &Error{File: path, Problem: problem}
	}
	f, err := os.Open(path) //nolint:gosec // named by the user
	if err != nil {
		return Roster{}, loadError(path, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return Roster{}, loadError(path, err)
	}
	return Parse(path, content)
}

func loadError(path string, err error) *Error {
	problem := err.Error()
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		problem = pathErr.Err.Error() // the path stands in front already
	}
	if errors.Is(err, fs.ErrNotExist) {
		problem = "no such file: name a file with one `<name> <ip> <port>` per line"
	}
	return &Error{File: path, Problem: problem, Err: err}
}
