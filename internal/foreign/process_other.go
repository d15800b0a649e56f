//go:build !linux

package foreign

import "syscall"

// childAttributes: a process group of its own. It outlives a launcher that is killed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
