//go:build !linux

package journal

// Sync is os.File's, which on macOS is F_FULLFSYNC.
func (f *osFile) Sync() error { return f.File.Sync() }
