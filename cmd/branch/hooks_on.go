//go:build hooks

package main

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"cutbank/internal/branch"
)

// hooks misbehave on request: SIGUSR1 blocks the loop for good, SIGUSR2 makes the branch deaf to SIGTERM.
func hooks() func(*branch.Config) {
	return func(c *branch.Config) {
		h := &hanging{Health: c.Health}
		signals := make(chan os.Signal, 2)
		signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
		go func() {
			for s := range signals {
				if s == syscall.SIGUSR2 {
					signal.Ignore(syscall.SIGTERM)
					continue
				}
				h.hang.Store(true)
			}
		}()
		c.Health = h
	}
}

// hanging is a Health whose beat, which the loop calls, does not return.
type hanging struct {
	branch.Health
	hang atomic.Bool
}

func (h *hanging) Beat() {
	if h.hang.Load() {
		select {}
	}
	h.Health.Beat()
}
