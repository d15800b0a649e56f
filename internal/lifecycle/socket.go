package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketDir is how long the path of a directory of sockets may be: a socket's path has at most 107
// bytes (103 on macOS), of which go-plugin's "/plugin-dir0123456789/plugin0123456789" takes 39.
const maxSocketDir = 103 - 39

// SocketDir is the private directory of the sockets of a data directory, an absolute path. Usually it
// is "run" in the data directory; where that path is too long for a socket it is a new directory in the
// system's temporary one, and "run" a symbolic link to it. With create it is made when it is not there.
// Error: os.ErrNotExist, or a directory that others could reach.
func SocketDir(dataDir string, create bool) (string, error) {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", fmt.Errorf("directory for sockets: %w", err)
	}
	run := filepath.Join(abs, "run")
	path, err := os.Readlink(run)
	switch {
	case err == nil: // a link
		if _, err := os.Lstat(path); create && errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(run) // what it led to was cleaned away
			return SocketDir(dataDir, true)
		}
	case !create:
		path = run
	case len(run) <= maxSocketDir:
		if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("directory for sockets: %w", err)
		}
		path = run
	default:
		if path, err = os.MkdirTemp("", "cutbank-"); err == nil {
			err = os.Symlink(path, run)
		}
		if err == nil && len(path) > maxSocketDir {
			err = fmt.Errorf("%s is too long for sockets: set TMPDIR to a shorter path", path)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("directory for sockets: %w", err), os.RemoveAll(path))
		}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("directory for sockets: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("directory for sockets: %s is not a private directory of this user: remove it", path)
	}
	return path, nil
}

// DialPeer connects to a Unix socket whose other end is this user's. A pid other than 0 has to be that
// of the process there.
func DialPeer(path string, pid int) (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	got, uid, err := peer(c)
	if err == nil && (int(uid) != os.Geteuid() || pid != 0 && got != pid) {
		err = fmt.Errorf("%s is served by pid %d of user %d, not by pid %d of this user", path, got, uid, pid)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
