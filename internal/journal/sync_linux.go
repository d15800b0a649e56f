package journal

import "syscall"

// Sync is fdatasync: a segment is as long as it will ever be before it is used,
// so a commit needs no metadata.
func (f *osFile) Sync() error {
	for {
		// Interrupted is not failed: nothing was lost, and the call says so.
		if err := syscall.Fdatasync(f.fd); err != syscall.EINTR {
			return err
		}
	}
}
