// Package simfs is a journal.FS in memory for simulators and tests. It knows
// what has been synced and what has not, numbers each step that changes
// something, and can fail or crash at any of them, the same way each time for
// the same seed.
//
// Invariant: after a crash a file has at least what its last successful Sync
// covered, and the directory at least what the last successful SyncDir did;
// whatever came later is there or not, sector by sector and entry by entry, as
// the Loss says. As on Linux, data whose Sync failed stay readable but no later
// Sync makes them durable.
//
// It does not model disks that lie about a sync, nor files that several handles
// write at once. It is not safe for use by several goroutines.
package simfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"

	"cutbank/internal/journal"
)

// Sector is how many bytes a crash keeps or loses together.
const Sector = 512

// ErrCrashed is what everything answers from a crash until Restart.
var ErrCrashed = errors.New("simfs: crashed")

// Loss is what a crash does to that which was not synced.
type Loss uint8

const (
	// Kill is the death of the process alone: nothing is lost.
	Kill Loss = iota
	// Drop loses everything that was not synced.
	Drop
	// Tear keeps a random part: of each write some sectors, of the directory's
	// changes some, in any combination.
	Tear
)

// Op is a kind of step.
type Op string

// The steps that are numbered, and reading, which is counted on its own.
const (
	OpCreate  Op = "create"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpSyncDir Op = "syncdir"
	OpRead    Op = "read"
)

// Step is one operation, as given to Trace.
type Step struct {
	N     int // from 1
	Op    Op
	Name  string
	To    string // of a rename
	Off   int64  // of a write
	Bytes int    // of a write
}

func (s Step) String() string {
	switch s.Op {
	case OpRename:
		return fmt.Sprintf("rename %s -> %s", s.Name, s.To)
	case OpWrite:
		return fmt.Sprintf("write %s [%d,%d)", s.Name, s.Off, s.Off+int64(s.Bytes))
	case OpSyncDir:
		return "syncdir"
	default:
		return fmt.Sprintf("%s %s", s.Op, s.Name)
	}
}

// Fault is what goes wrong at one step.
type Fault struct {
	Step int   // 0: nothing goes wrong; reads have numbers of their own
	Err  error // syscall.EIO and the like; nil: a crash
	Keep int   // how many bytes of a write are written before the error
}

// FS is the directory. Faults and Trace may be set at any time.
type FS struct {
	Fault     Fault
	ReadFault Fault
	Trace     func(Step) // nil: none

	steps   int
	reads   int
	life    int // handles of an earlier life are dead
	crashed bool
	rng     rand.PCG
	names   map[string]*node // as the process sees them
	durable map[string]*node // as of the last SyncDir
	pending []change         // since then
}

// node is a file's content. Clones share it until one of them writes.
type node struct {
	data   []byte // what is read
	disk   []byte // what is on the disk
	dirty  []span // what is in data and not yet in disk
	shared bool
}

type span struct{ from, to int }

// change is one that SyncDir makes durable.
type change struct {
	remove string // "" or the name that goes
	add    string // "" or the name that comes
	node   *node
}

// New gives an empty directory. The seed decides what Tear keeps.
func New(seed uint64) *FS {
	return &FS{rng: *rand.NewPCG(seed, 0), names: map[string]*node{}, durable: map[string]*node{}}
}

var _ journal.FS = (*FS)(nil)

// Steps is how many steps there were.
func (f *FS) Steps() int { return f.steps }

// Reads is how many reads there were.
func (f *FS) Reads() int { return f.reads }

// Crashed says whether everything answers ErrCrashed.
func (f *FS) Crashed() bool { return f.crashed }

// step numbers one and says what goes wrong with it. A crash lets a write or a
// change of the directory begin, so that Tear may keep it; begun says so.
func (f *FS) step(s Step) (begun bool, err error) {
	if f.crashed {
		return false, ErrCrashed
	}
	f.steps++
	if f.Trace != nil {
		s.N = f.steps
		f.Trace(s)
	}
	if f.Fault.Step != f.steps {
		return true, nil
	}
	if f.Fault.Err != nil {
		return false, f.Fault.Err
	}
	f.crashed = true
	return true, ErrCrashed
}

// Open implements journal.FS.
func (f *FS) Open(name string) (journal.File, error) {
	if f.crashed {
		return nil, ErrCrashed
	}
	if f.names[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{fs: f, node: f.names[name], name: name, life: f.life}, nil
}

// Create implements journal.FS.
func (f *FS) Create(name string) (journal.File, error) {
	begun, err := f.step(Step{Op: OpCreate, Name: name})
	if begun && f.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if begun {
		n := &node{}
		f.names[name] = n
		f.pending = append(f.pending, change{add: name, node: n})
	}
	if err != nil {
		return nil, err
	}
	return f.Open(name)
}

// Rename implements journal.FS.
func (f *FS) Rename(from, to string) error {
	begun, err := f.step(Step{Op: OpRename, Name: from, To: to})
	if !begun {
		return err
	}
	n := f.names[from]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(f.names, from)
	f.names[to] = n
	f.pending = append(f.pending, change{remove: from, add: to, node: n})
	return err
}

// Remove implements journal.FS.
func (f *FS) Remove(name string) error {
	begun, err := f.step(Step{Op: OpRemove, Name: name})
	if !begun {
		return err
	}
	if f.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(f.names, name)
	f.pending = append(f.pending, change{remove: name})
	return err
}

// List implements journal.FS.
func (f *FS) List() ([]string, error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(f.names)), nil
}

// SyncDir implements journal.FS.
func (f *FS) SyncDir() error {
	if _, err := f.step(Step{Op: OpSyncDir}); err != nil {
		return err
	}
	for _, c := range f.pending {
		c.apply(f.durable)
	}
	f.pending = f.pending[:0]
	return nil
}

func (c change) apply(names map[string]*node) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.add != "" {
		names[c.add] = c.node
	}
}

func (f *FS) read() error {
	if f.crashed {
		return ErrCrashed
	}
	f.reads++
	if f.ReadFault.Step != f.reads {
		return nil
	}
	if f.ReadFault.Err != nil {
		return f.ReadFault.Err
	}
	f.crashed = true
	return ErrCrashed
}

// Restart starts a new life after a crash, or crashes now: what was not synced
// is lost as told, open files are dead, faults are over.
func (f *FS) Restart(loss Loss) {
	f.crashed, f.Fault, f.ReadFault = false, Fault{}, Fault{}
	f.life++
	if loss == Kill {
		return
	}
	rng := rand.New(&f.rng) //nolint:gosec // faults, to be repeated
	for _, c := range f.pending {
		if loss == Tear && rng.IntN(2) == 0 {
			c.apply(f.durable)
		}
	}
	f.pending = f.pending[:0]
	f.names = maps.Clone(f.durable)
	for _, name := range slices.Sorted(maps.Keys(f.names)) {
		n := f.names[name]
		if n.shared {
			n = f.own(n)
		}
		n.crash(loss, rng)
	}
}

// crash makes what is on the disk the content.
func (n *node) crash(loss Loss, rng *rand.Rand) {
	if loss == Tear {
		for _, s := range n.dirty {
			for from := s.from; from < s.to; {
				to := min((from/Sector+1)*Sector, s.to)
				if rng.IntN(2) == 0 {
					n.flush(span{from, to})
				}
				from = to
			}
		}
	}
	n.dirty = n.dirty[:0]
	n.data = append(n.data[:0], n.disk...)
}

// flush puts a part on the disk.
func (n *node) flush(s span) {
	if len(n.disk) < s.to {
		n.disk = append(n.disk, make([]byte, s.to-len(n.disk))...)
	}
	copy(n.disk[s.from:s.to], n.data[s.from:s.to])
}

// Clone gives an independent copy, faults, counters and randomness included and
// Trace left out. Content is copied when either writes it. Handles stay with the
// original.
func (f *FS) Clone() *FS {
	c := *f
	c.Trace = nil
	for _, m := range []map[string]*node{f.names, f.durable} {
		for _, n := range m {
			n.shared = true
		}
	}
	for _, p := range f.pending {
		if p.node != nil {
			p.node.shared = true
		}
	}
	c.names, c.durable, c.pending = maps.Clone(f.names), maps.Clone(f.durable), slices.Clone(f.pending)
	return &c
}

// own replaces a shared node by a copy wherever this directory names it.
func (f *FS) own(n *node) *node {
	c := &node{data: slices.Clone(n.data), disk: slices.Clone(n.disk), dirty: slices.Clone(n.dirty)}
	for _, m := range []map[string]*node{f.names, f.durable} {
		for name := range m {
			if m[name] == n {
				m[name] = c
			}
		}
	}
	for i := range f.pending {
		if f.pending[i].node == n {
			f.pending[i].node = c
		}
	}
	return c
}

// Content is a copy of a file's bytes as a process reads them, nil without one.
func (f *FS) Content(name string) []byte {
	if n := f.names[name]; n != nil {
		return slices.Clone(n.data)
	}
	return nil
}

// Put makes a file what it says, durably, as if somebody had written it while the
// bank was down; nil removes it. It is no step.
func (f *FS) Put(name string, content []byte) {
	delete(f.names, name)
	delete(f.durable, name)
	if content != nil {
		n := &node{data: slices.Clone(content), disk: slices.Clone(content)}
		f.names[name], f.durable[name] = n, n
	}
}

// file is an open one.
type file struct {
	fs   *FS
	node *node
	name string // that it was opened with
	life int
}

// step is fs.step for a file, under the name that it has now.
func (h *file) step(s Step) (begun bool, err error) {
	if h.fs.Trace != nil {
		s.Name = h.name
		for name, n := range h.fs.names {
			if n == h.node {
				s.Name = name
			}
		}
	}
	return h.fs.step(s)
}

// alive answers for handles that were open at a crash.
func (h *file) alive() error {
	if h.life != h.fs.life || h.node == nil {
		return fs.ErrClosed
	}
	return nil
}

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	if err := h.fs.read(); err != nil {
		return 0, err
	}
	if off >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	fault := h.fs.Fault
	begun, err := h.step(Step{Op: OpWrite, Off: off, Bytes: len(p)})
	if !begun {
		if h.fs.crashed {
			return 0, err
		}
		p = p[:min(fault.Keep, len(p))]
	}
	if h.node.shared {
		h.node = h.fs.own(h.node)
	}
	n, from, to := h.node, int(off), int(off)+len(p)
	if len(n.data) < to {
		n.data = append(n.data, make([]byte, to-len(n.data))...)
	}
	copy(n.data[from:to], p)
	if len(p) > 0 {
		n.dirty = append(n.dirty, span{from, to})
	}
	return len(p), err
}

func (h *file) Sync() error {
	if err := h.alive(); err != nil {
		return err
	}
	begun, err := h.step(Step{Op: OpSync})
	if h.fs.crashed {
		return err
	}
	if h.node.shared {
		h.node = h.fs.own(h.node)
	}
	if begun {
		for _, s := range h.node.dirty {
			h.node.flush(s)
		}
	}
	// Also when it failed: the pages are clean then, and their data lost.
	h.node.dirty = h.node.dirty[:0]
	return err
}

func (h *file) Size() (int64, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	return int64(len(h.node.data)), nil
}

func (h *file) Close() error {
	if err := h.alive(); err != nil {
		return err
	}
	h.node = nil
	return nil
}
