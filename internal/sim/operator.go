package sim

import (
	"slices"

	"cutbank/internal/journal/simfs"
)

// directory is what the operator does with the directory of a branch: keep copies, put an old one in
// place, put the newer one back.
type directory struct {
	backups []backup
	newer   *backup // what was there before an old one was put in place that has to be refused
	swapped int64   // when a directory was last changed
}

// backup is a copy of a directory, made while the branch was idle, and what it stands for.
type backup struct {
	fs    *simfs.FS
	books *books
}

const maxBackups = 4

// keepBackup copies the directory now and then, right after a recovery: it is durable as a whole.
func (n *node) keepBackup() {
	if n.w.calm || !n.w.on(OldDirectory) || n.newer != nil || !n.w.chance(2) {
		return
	}
	n.backups = append(n.backups, backup{n.fs.Clone(), n.durable.clone()})
	if len(n.backups) > maxBackups {
		n.backups = n.backups[1:]
	}
}

// putOld stops a branch, and some time later, when nothing that it did is still on its way, starts it
// with an old directory.
func (w *World) putOld(n *node) {
	if n.up && n.newer == nil && w.chance(2) {
		w.fork(n)
	} else if len(n.backups) > 0 {
		w.put(n, n.backups[w.random.IntN(len(n.backups))])
	}
}

// fork lets a branch that nobody hears go on for a while from a copy of its directory, and then puts the
// copy in place: two histories of which nobody can say which is the older one, until one is heard of.
func (w *World) fork(n *node) {
	d := 500_000 + w.upTo(3_000_000)
	for p := range w.nodes {
		w.blocked[n.i*w.Branches+p] = w.now + d
	}
	w.fault(Partition, n.i)
	old := backup{n.fs.Clone(), n.durable.clone()}
	w.after(d, func() { w.put(n, old) })
}

func (w *World) put(n *node, old backup) {
	if w.calm || n.newer != nil || n.held {
		return
	}
	if n.up {
		n.crash(simfs.Kill)
	}
	n.held = true
	w.after(w.upTo(12_000_000), func() {
		n.held = false
		other := func(p *node) bool { return p.newer != nil } // one at a time: the peers are who knows better
		if w.calm || n.up || !w.settled(n) || slices.ContainsFunc(w.nodes, other) {
			n.start()
			return
		}
		n.swap(old)
		n.start()
	})
}

// settled tells that nothing of a branch that is down can still become durable at a peer, and that what
// it was committing itself is decided.
func (w *World) settled(n *node) bool {
	if n.sealed != nil {
		return false
	}
	for _, p := range w.nodes {
		if p == n {
			continue
		}
		for _, list := range [][]op{p.pending, p.sealed} {
			for _, o := range list {
				if o.kind != opOpen && o.peer == n.i {
					return false
				}
			}
		}
		if p.up && len(p.links[n.i].ports) > 0 {
			return false
		}
	}
	return true
}

// swap puts an old directory in place. When a peer durably knows of something newer it has to be
// refused; else it is as good as the newer one was, and the bank goes on from it.
func (n *node) swap(old backup) {
	w := n.w
	current := backup{n.fs, n.durable}
	n.fs = old.fs.Clone()
	n.fs.Restart(simfs.Kill)
	n.durable, n.swapped = old.books.clone(), w.now
	if old.books.opened {
		w.fault(OldDirectory, n.i)
	} else {
		w.fault(EmptyDirectory, n.i)
	}
	if w.newer(n.i, n.durable) {
		n.newer = &current
		w.after(1_000_000+w.upTo(6_000_000), n.putBack)
		return
	}
	w.saw(OldUnknown)
	w.told.forget(current.books, old.books)
	w.after(w.upTo(10_000_000), func() { w.put(n, current) })
}

// putBack ends the time of an old directory.
func (n *node) putBack() {
	if n.newer == nil {
		return
	}
	if n.up {
		n.crash(simfs.Kill)
	}
	n.fs, n.durable = n.newer.fs, n.newer.books
	n.newer, n.sealed, n.held, n.swapped = nil, nil, false, n.w.now
	n.w.note("newer directory back", n.i, -1, 0)
}

// refused notes that the fences between two branches did their work, or that they had no reason to.
func (w *World) refused(a, b *node) {
	const memory = 15_000_000 // a position that was on its way may come late
	for _, n := range []*node{a, b} {
		switch {
		case n.newer == nil:
			continue
		case diverged(n.newer.books, n.durable):
			w.saw(NewerRefused)
		default:
			w.saw(OldRefused)
		}
		return
	}
	if max(a.swapped, b.swapped) == 0 || w.now-max(a.swapped, b.swapped) > memory {
		w.violate("fence", "%s and %s refuse each other, and neither has an old directory", a.name, b.name)
	}
}

// diverged tells that two histories of a branch went different ways.
func diverged(a, b *books) bool {
	for i := range a.sent {
		if !prefix(a.sent[i], b.sent[i]) && !prefix(b.sent[i], a.sent[i]) {
			return true
		}
	}
	return false
}
