package foreign

import "syscall"

// childAttributes: a process group of its own, ended with the launcher.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}
