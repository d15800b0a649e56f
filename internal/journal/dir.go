package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Dir is the FS of a real directory, which is made (0700) when it does not
// exist. Files are 0600. An entry that is a symbolic link, or anything else that
// is not a regular file, is refused. It takes no lock: who opens a journal for
// writing holds the directory's lock.
func Dir(path string) (FS, error) {
	if err := makeDir(path); err != nil {
		return nil, fmt.Errorf("journal: directory %s: %w", path, err)
	}
	return openDir(path, os.O_RDWR)
}

// ReadDir is like Dir, for Verify: it makes no directory and opens files for
// reading only.
func ReadDir(path string) (FS, error) {
	return openDir(path, os.O_RDONLY)
}

// makeDir makes path and makes each new entry durable in its parent.
func makeDir(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return syscall.ENOTDIR
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	parent := filepath.Dir(filepath.Clean(path))
	if parent != path {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func openDir(path string, flag int) (FS, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("journal: %s: %w", path, syscall.ENOTDIR)
	}
	return &dirFS{path: path, flag: flag}, nil
}

type dirFS struct {
	path string
	flag int // os.O_RDWR or os.O_RDONLY
}

func (d *dirFS) file(name string) string { return filepath.Join(d.path, name) }

func (d *dirFS) writable() error {
	if d.flag == os.O_RDONLY {
		return syscall.EROFS
	}
	return nil
}

func (d *dirFS) Open(name string) (File, error) {
	return openFile(d.file(name), d.flag)
}

func (d *dirFS) Create(name string) (File, error) {
	if err := d.writable(); err != nil {
		return nil, err
	}
	return openFile(d.file(name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (d *dirFS) Rename(from, to string) error {
	if err := d.writable(); err != nil {
		return err
	}
	return os.Rename(d.file(from), d.file(to))
}

func (d *dirFS) Remove(name string) error {
	if err := d.writable(); err != nil {
		return err
	}
	return os.Remove(d.file(name))
}

func (d *dirFS) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

func (d *dirFS) SyncDir() error {
	if err := d.writable(); err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // of the data directory
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// osFile is an os.File whose Sync is the platform's data sync.
type osFile struct {
	*os.File
	fd int
}

func openFile(path string, flag int) (File, error) {
	// O_NONBLOCK: a pipe under a journal's name must not hold the process up.
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600) //nolint:gosec // as above
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
