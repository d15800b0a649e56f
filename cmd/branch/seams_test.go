package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cutbank/internal/branch"
	"cutbank/internal/journal"
)

// trialEnv names the scratch directory of a trial: in an environment that has it this test binary is the
// branch program, with seams between it and its disk and its network, which the program itself has not.
const trialEnv = "CUTBANK_TEST_TRIAL"

func TestMain(m *testing.M) {
	if scratch := os.Getenv(trialEnv); scratch != "" {
		if port, err := os.ReadFile(filepath.Join(scratch, os.Args[1]+".port")); err == nil {
			os.Args[2] = string(port) // the roster's is a proxy's
		}
		os.Exit(program(func(cfg *branch.Config) {
			if err := try(cfg, scratch); err != nil {
				fmt.Fprintln(os.Stderr, "trial:", err)
				os.Exit(1)
			}
		}))
	}
	var err error
	if programs, err = os.MkdirTemp("", "cutbank-programs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

var (
	programs string
	build    = sync.OnceValues(func() ([]byte, error) {
		return exec.Command("go", "build", "-buildvcs=false", "-o", programs+"/", "cutbank/cmd/launcher", "cutbank/cmd/branch", "cutbank/cmd/controller").CombinedOutput()
	})
)

// Programs is the directory of the real ones, built once.
func Programs(t *testing.T) string {
	t.Helper()
	if out, err := build(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return programs
}

// Sizes in a trial: small, so that segments change and checkpoints are made all the time.
const (
	trialSegment    = 64 << 10
	trialCheckpoint = 128 << 10
)

// try puts the seams in.
func try(cfg *branch.Config, scratch string) error {
	o, _, err := parse(os.Args[1:], os.Stdout)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.dataDir, o.name)
	fs, err := journal.Dir(dir)
	if err != nil {
		return err
	}
	k, err := newKiller(scratch, o.name)
	if err != nil {
		return err
	}
	j, err := journal.Open(&seamFS{FS: fs, k: k, files: map[string]*seamFile{}}, journal.Config{Sync: o.sync, SegmentBytes: trialSegment})
	if err != nil {
		return err
	}
	names, run, err := newNamesLog(&seamJournal{Journal: j, k: k}, dir, scratch, o.name)
	if err != nil {
		return err
	}
	id := uint64(run)<<40 | uint64(o.name[len(o.name)-1])<<32
	cfg.NextID = func() uint64 { id++; return id }
	cfg.Journal, cfg.CheckpointBytes = names, trialCheckpoint
	cfg.Listener = seamListener{cfg.Listener, k}
	return nil
}

// killer ends the process, as kill -9 does, at one hit of one named point. Which one is the next line of
// the branch's plan; how many were hit before is the number of lines in its hits.
type killer struct {
	mu    sync.Mutex
	point string // "" : none
	left  int    // hits until then
	hits  string // file
	disk  string // file that tells what the disk does
}

func newKiller(scratch, name string) (*killer, error) {
	k := &killer{hits: filepath.Join(scratch, name+".hits"), disk: filepath.Join(scratch, name+".disk")}
	plan, err := os.ReadFile(filepath.Join(scratch, name+".plan"))
	if os.IsNotExist(err) {
		return k, nil
	}
	hits, err2 := os.ReadFile(k.hits)
	if err != nil || err2 != nil && !os.IsNotExist(err2) {
		return nil, fmt.Errorf("plan: %w, %w", err, err2)
	}
	lines := strings.Split(strings.TrimSpace(string(plan)), "\n")
	if n := bytes.Count(hits, []byte("\n")); n < len(lines) {
		_, err = fmt.Sscanf(lines[n], "%d %s", &k.left, &k.point)
	}
	return k, err
}

// at is called at every point.
func (k *killer) at(point string) {
	if k.point != point { // never changed after the start
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left--; k.left > 0 {
		return
	}
	f, err := os.OpenFile(k.hits, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(point + "\n")
	}
	if err != nil {
		panic(err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // it is on its way
}

// around is a step with a point before and one after it.
func (k *killer) around(step string, f func()) {
	k.at("before:" + step)
	f()
	k.at("after:" + step)
}

// diskSteps are those of seamFS that a running branch takes; a checkpoint's and a new segment's among them.
var diskSteps = []string{
	"write:segment", "sync:segment", // an event appended, synced
	"create:segment.tmp", "write:segment.tmp", "sync:segment.tmp", "rename:segment.tmp", "syncdir:segment.tmp",
	"create:checkpoint.tmp", "write:checkpoint.tmp", "sync:checkpoint.tmp", "rename:checkpoint.tmp", "syncdir:checkpoint.tmp",
	"remove:segment", "remove:checkpoint", "syncdir:removed",
}

// seamFS names the steps of a journal by what is done to which kind of file.
type seamFS struct {
	journal.FS
	k     *killer
	last  string               // what the next SyncDir makes durable
	files map[string]*seamFile // by their present names
}

func class(name string) string { return name[strings.IndexByte(name, '.')+1:] }

func (s *seamFS) Open(name string) (journal.File, error) {
	f, err := s.FS.Open(name)
	return s.file(name, f), err
}

func (s *seamFS) file(name string, f journal.File) journal.File {
	s.files[name] = &seamFile{f, s.k, class(name)}
	return s.files[name]
}

func (s *seamFS) Create(name string) (f journal.File, err error) {
	s.k.around("create:"+class(name), func() { f, err = s.FS.Create(name) })
	return s.file(name, f), err
}

func (s *seamFS) Rename(from, to string) (err error) {
	s.last = class(from)
	s.k.around("rename:"+class(from), func() { err = s.FS.Rename(from, to) })
	if f := s.files[from]; f != nil {
		f.class, s.files[to] = class(to), f
	}
	return err
}

func (s *seamFS) Remove(name string) (err error) {
	s.last = "removed"
	s.k.around("remove:"+class(name), func() { err = s.FS.Remove(name) })
	return err
}

func (s *seamFS) SyncDir() (err error) {
	s.k.around("syncdir:"+s.last, func() { err = s.FS.SyncDir() })
	return err
}

type seamFile struct {
	journal.File
	k     *killer
	class string
}

func (f *seamFile) WriteAt(p []byte, off int64) (n int, err error) {
	f.k.around("write:"+f.class, func() { n, err = f.File.WriteAt(p, off) })
	return n, err
}

func (f *seamFile) Sync() (err error) {
	f.k.around("sync:"+f.class, func() {
		if err = f.k.weaken(); err == nil {
			err = f.File.Sync()
		}
	})
	return err
}

// weaken makes a sync slow, or lets one fail, when the trial says so.
func (k *killer) weaken() error {
	switch how, _ := os.ReadFile(k.disk); string(how) {
	case "slow":
		time.Sleep(20 * time.Millisecond)
		f, err := os.OpenFile(k.disk+".slowed", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(".")
		return errors.Join(err, f.Close())
	case "fail":
		return errors.Join(os.Remove(k.disk), syscall.EIO)
	}
	return nil
}

// commitSteps are the batches with a step of a snapshot in them.
var commitSteps = []string{"commit:initiated", "commit:marker"}

type seamJournal struct {
	branch.Journal
	k *killer
}

func (s *seamJournal) Commit(events []byte) (err error) {
	none := func(int, uint64) {}
	b := batch{sent: none, received: none}
	if s.k.point != "" {
		if err := b.decode(events, 4); err != nil {
			return err
		}
	}
	commit := func() { err = s.Journal.Commit(events) }
	switch {
	case b.initiated > 0:
		s.k.around("commit:initiated", commit)
	case b.markers > 0:
		s.k.around("commit:marker", commit)
	default:
		commit()
	}
	return err
}

// Messages by their field in BranchMessage, as the points call them.
var messages = map[uint64]string{
	2: "transfer", 3: "init_snapshot", 4: "marker", 5: "retrieve_snapshot", 6: "return_snapshot",
	16: "hello", 17: "proof", 18: "position", 19: "ready", 20: "ack", 21: "agreed",
}

// netPoints are those of seamConn at a branch that is dialled. What was read and not handed on has not
// been received; what comes after it is a step of the disk.
var netPoints = []string{
	"after:read:hello", "before:write:hello", "after:write:hello", "after:read:proof",
	"before:write:position", "after:write:position", "after:read:position",
	"before:write:agreed", "after:write:agreed", "after:read:agreed",
	"before:write:ready", "after:write:ready", "after:read:ready",
	"before:write:transfer", "after:write:transfer", "after:read:transfer",
	"before:write:ack", "after:write:ack", "after:read:ack",
	"after:read:init_snapshot", "before:write:marker", "after:write:marker", "after:read:marker",
	"after:read:retrieve_snapshot", "before:write:return_snapshot", "after:write:return_snapshot",
}

type seamListener struct {
	net.Listener
	k *killer
}

func (l seamListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &seamConn{Conn: c, k: l.k}, nil
}

// seamConn tells which messages a write or a read holds.
type seamConn struct {
	net.Conn
	k       *killer
	in, out frames
}

func (c *seamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for _, m := range c.in.seen(p[:n]) {
		c.k.at("after:read:" + m)
	}
	return n, err
}

func (c *seamConn) Write(p []byte) (n int, err error) {
	seen := c.out.seen(p)
	for _, m := range seen {
		c.k.at("before:write:" + m)
	}
	n, err = c.Conn.Write(p)
	for _, m := range seen {
		c.k.at("after:write:" + m)
	}
	return n, err
}

// frames finds the kinds of the messages that end in a piece of a stream.
type frames struct{ held []byte }

func (f *frames) seen(p []byte) (kinds []string) {
	f.held = append(f.held, p...)
	for {
		length, n := binary.Uvarint(f.held)
		if n <= 0 || uint64(len(f.held)-n) < length {
			return kinds
		}
		tag, _ := binary.Uvarint(f.held[n:])
		if kind := messages[tag>>3]; kind != "" && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
		f.held = f.held[n+int(length):]
	}
}
