package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// journals is row 11: records a second of the journal and of the nearest library. That one is in a module of its
// own, so that nothing of it comes near a branch; it is built here, with Go and from the top of the repository.
func (m *machine) journals(ctx context.Context) error {
	program := filepath.Join(m.dir, "raftwal")
	if out, err := exec.CommandContext(ctx, "go", "build", "-C", "tools/raftwal", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil { //nolint:gosec // a path of our own
		return fmt.Errorf("tools/raftwal can't be built: %w: %s", err, out)
	}
	var names []string
	all := map[string]*series{}
	for range m.rounds {
		dir := filepath.Join(m.dir, "journals")
		cmd := exec.CommandContext(ctx, program, dir, m.span.String()) //nolint:gosec // just built
		cmd.Stderr = m.log
		out, err := cmd.Output()
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			var name string
			var batch int
			var rate float64
			if _, err := fmt.Sscan(line, &name, &batch, &rate); err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			name = fmt.Sprintf("%s, records of 32 bytes, %4d a sync", name, batch)
			if all[name] == nil {
				all[name], names = &series{}, append(names, name)
			}
			all[name].add(rate, 0, 0)
		}
	}
	for _, name := range names {
		m.table.add(all[name].figure(11, "/s", name))
	}
	return nil
}
