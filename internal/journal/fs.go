package journal

// FS is the directory of one journal. Every byte that the journal reads or
// writes passes through it, on the caller's goroutine, so that a simulator sees
// and can interrupt each step. Names are plain file names without a path.
type FS interface {
	// Open opens an existing file, for reading and writing where that is allowed.
	Open(name string) (File, error)
	// Create makes a new, empty file and fails with fs.ErrExist if there is one.
	Create(name string) (File, error)
	// Rename gives a file a new name, replacing any file of that name.
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names in the directory in ascending order.
	List() ([]string, error)
	// SyncDir makes creations, renames and removals durable.
	SyncDir() error
}

// File is an open file of an FS.
type File interface {
	// ReadAt and WriteAt are those of io.ReaderAt and io.WriterAt.
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes the file's data durable, and of its metadata what is needed
	// to read them.
	Sync() error
	Size() (int64, error)
	Close() error
}
