// Package branch is one branch of the bank: a loop that owns the ledger, and the goroutines around
// it that read, write, sync and wait.
//
//	links ──deliveries──▶ ┌──────┐ ──batch──▶ journal goroutine
//	clients ──requests──▶ │ loop │ ◀──done──
//	timer ──────────────▶ └──────┘ ──frames──▶ links   ──answers──▶ clients
//
// The loop takes inputs, steps the engine and fills a batch. When no batch is being
// synced it hands over the one that it has; when that is durable, and only then, the batch's effects
// go out. While one batch is synced the next is filled: nothing waits for a timer.
//
// Not here: the rules of snapshots and money (ledger, snapshot), the bytes (wire, journal), who
// restarts the process (supervise).
package branch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/engine"
	"cutbank/internal/identity"
	"cutbank/internal/journal"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/rules"
	"cutbank/proto/bankpb"
)

// Journal keeps batches durably and in order. *journal.Journal is one; Memory keeps nothing.
type Journal interface {
	// Recover calls back with the newest checkpoint and the commits after it; once, first.
	Recover(checkpoint, commit func([]byte) error) error
	// Commit returns when the events are durable. After an error nothing may be let out.
	Commit(events []byte) error
	Checkpoint(state []byte) error
	// SinceCheckpoint is the bytes that a recovery would read besides the checkpoint.
	SinceCheckpoint() int64
	// Prepare does some of the work that a later commit would have to wait for. Its error is the next
	// commit's too.
	Prepare() error
	Stats() journal.Stats
	// Break switches a rule off; after Recover, in a bank that was opened so.
	Break(r rules.Rule)
	Close() error
}

// Memory is the journal of a branch whose books end with its process.
type Memory struct{}

// Recover finds nothing.
func (Memory) Recover(_, _ func([]byte) error) error { return nil }

// Commit does nothing.
func (Memory) Commit([]byte) error { return nil }

// Checkpoint does nothing.
func (Memory) Checkpoint([]byte) error { return nil }

// SinceCheckpoint is 0: nothing is ever to be read.
func (Memory) SinceCheckpoint() int64 { return 0 }

// Prepare does nothing.
func (Memory) Prepare() error { return nil }

// Stats are empty.
func (Memory) Stats() journal.Stats { return journal.Stats{} }

// Break does nothing.
func (Memory) Break(rules.Rule) {}

// Close does nothing.
func (Memory) Close() error { return nil }

// Health is told how the branch is; *lifecycle.Health is one.
type Health interface {
	Beat()             // the loop is alive; at least every BeatInterval
	Syncing(busy bool) // a commit began or ended
	SetReady(ready bool)
	Waits(what string) // while it is not ready
}

// BeatInterval is how often the loop beats at least: well within lifecycle.StaleAfter.
const BeatInterval = 150 * time.Millisecond

// Config of a Branch.
type Config struct {
	Name     string
	Listener net.Listener
	Journal  Journal       // Memory{}
	Durable  bool          // whether Journal outlives the process; false
	Interval time.Duration // longest wait between two transfers; 0 is as fast as it can
	Amount   roster.Amount // DefaultAmount
	Delay    link.Delay    // slow motion of items; none
	Seed     uint64        // of the random choices; 0: a random one
	Health   Health        // nil: nobody asks
	// Certificates make links and controllers prove who they are, over TLS; nil: plaintext.
	Certificates *identity.Certificates
	Logger       hclog.Logger
	// Broken is the rule that the bank does without; None: the plan decides. A directory of another
	// bank is refused.
	Broken rules.Rule
	// CheckpointBytes is how much a recovery may have to read: a checkpoint is made after so many
	// bytes of events; 16 MiB.
	CheckpointBytes int64
	// NextID names transfers in the logs of both ends, in tests; nil: they have no names.
	NextID func() uint64
}

// Validate fills in defaults and says what is wrong.
func (c *Config) Validate() error {
	if c.Name == "" || c.Listener == nil || c.Logger == nil {
		return errors.New("branch: name, listener and logger are needed")
	}
	if c.Interval < 0 || c.Delay.Min < 0 || c.Delay.Max < c.Delay.Min {
		return errors.New("branch: interval and delays are not negative, and the longest is not below the shortest")
	}
	if c.Journal == nil {
		c.Journal = Memory{}
	}
	if c.Amount == (roster.Amount{}) {
		c.Amount = DefaultAmount
	}
	if c.CheckpointBytes == 0 {
		c.CheckpointBytes = 16 << 20
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64() //nolint:gosec // not a secret
	}
	return nil
}

// Branch is one branch. Make it with New, then Run it once.
type Branch struct {
	cfg        Config
	engine     *engine.Engine[*link.Conn]
	payer      payer
	mesh       *link.Mesh
	deliveries chan link.Delivery
	requests   chan request
	strangers  *budget
	clients    *budget
	bulky      *budget // connections that send a large frame
	refusals   refusals
	commits    chan commit
	done       chan committed
	stats      journal.Stats // after the last commit
	since      int64         // bytes that a recovery would read besides the checkpoint
	inFlight   *engine.Batch[*link.Conn]
	recovery   time.Duration
}

// commit is what the journal goroutine is to make durable.
type commit struct {
	events     []byte
	checkpoint []byte // state after the events, or nil
}

// committed is the answer to a commit.
type committed struct {
	err   error
	stats journal.Stats
	since int64
}

// New recovers the books from the journal. Error: what the journal or the ledger finds wrong, or that the
// context ended meanwhile; then nothing has changed.
func New(ctx context.Context, cfg Config) (*Branch, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b := &Branch{
		cfg: cfg, engine: engine.New[*link.Conn](),
		payer:      payer{random: rand.New(rand.NewPCG(cfg.Seed, 0)), interval: cfg.Interval, amount: cfg.Amount, nextID: cfg.NextID, pace: pace{window: firstWindow}}, //nolint:gosec // not a secret
		deliveries: make(chan link.Delivery, 64), requests: make(chan request, 64),
		strangers: newBudget(MaxStrangers, MaxStrangersPerAddress), clients: newBudget(MaxClients, 0), bulky: newBudget(MaxLarge, 0),
		refusals: refusals{logger: cfg.Logger},
		commits:  make(chan commit, 1), done: make(chan committed, 1),
	}
	b.engine.Broken = cfg.Broken
	began := time.Now()
	if err := cfg.Journal.Recover(b.engine.Ledger.Load, b.replay(ctx)); err != nil {
		return nil, fmt.Errorf("branch %s: recovery: %w", cfg.Name, err)
	}
	b.recovery, b.since = time.Since(began), cfg.Journal.SinceCheckpoint()
	return b, nil
}

// replayStep is how much of a journal is replayed between two words about it.
const replayStep = 256 << 10

// replay is the ledger's, and tells how far it has come: a supervisor must not take a long one for a hang.
func (b *Branch) replay(ctx context.Context) func(events []byte) error {
	done, told := 0, 0
	return func(events []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done += len(events); b.cfg.Health != nil && done-told >= replayStep {
			told = done
			b.cfg.Health.Waits(fmt.Sprintf("its journal to be replayed (%.1f MiB so far)", float64(done)/(1<<20)))
		}
		return b.engine.Ledger.Replay(events)
	}
}

// Run serves until the context ends, then finishes the batch that is being synced and returns nil.
// Error: the journal failed; nothing that was not durable has left.
func (b *Branch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	b.mesh = link.NewMesh(link.Config{
		Delay:   b.cfg.Delay,
		Deliver: func(d link.Delivery) { b.deliver(ctx, d) },
		Failed:  b.dialFailed, Dial: b.cfg.Certificates.Dial,
	})
	defer b.mesh.Stop()
	defer cancel()
	if b.engine.Ledger.Opened() {
		if err := b.resume(); err != nil {
			return err
		}
	}
	wg.Go(b.journalLoop)
	defer close(b.commits)
	wg.Go(func() { b.acceptLoop(ctx, b.cfg.Listener) })
	defer func() { _ = b.cfg.Listener.Close() }()
	return b.loop(ctx)
}

// deliver hands a delivery to the loop, or drops it when the branch ends. Items are numbered by their place: after
// one delivery that was dropped none may follow. Select alone takes any case that can go, and the loop may still
// be taking when the context ends.
func (b *Branch) deliver(ctx context.Context, d link.Delivery) {
	if ctx.Err() != nil {
		return
	}
	select {
	case b.deliveries <- d:
	case <-ctx.Done():
	}
}

// resume begins the next incarnation of a branch that was recovered.
func (b *Branch) resume() error {
	l := b.engine.Ledger
	if name := l.Plan().Names[l.Self()]; name != b.cfg.Name {
		return fmt.Errorf("branch %s: the data directory is that of %s", b.cfg.Name, name)
	}
	if r := l.Plan().Broken; b.cfg.Broken != rules.None && r != b.cfg.Broken {
		return fmt.Errorf("branch %s: --break %s, and the data directory is of a bank with --break %s", b.cfg.Name, b.cfg.Broken, r)
	} else if r != rules.None {
		b.cfg.Logger = b.cfg.Logger.With("rule_off", r.String())
	}
	out := &b.engine.Filling.Output
	l.Start(out)
	if err := b.cfg.Journal.Commit(ledger.Stamp(out.Persist, time.Now().UnixMicro())); err != nil {
		return err
	}
	out.Reset()
	b.engine.Begin()
	b.linkUp()
	b.cfg.Logger.Info("books recovered", "balance", l.Balance(), "incarnation", l.Incarnation(),
		"snapshots_in_progress", l.SnapshotsInProgress(), "took", b.recovery.Round(time.Microsecond).String())
	return nil
}

func (b *Branch) linkUp() {
	l := b.engine.Ledger
	p := l.Plan()
	if p.Broken != rules.None {
		b.cfg.Journal.Break(p.Broken)
	}
	b.mesh.Start(&link.Identity{
		Bank: p.BankID, Key: p.Key, Names: p.Names, Self: l.Self(), Incarnation: l.Incarnation(),
	}, l.Addresses())
}

func (b *Branch) journalLoop() {
	for c := range b.commits {
		err := b.cfg.Journal.Commit(c.events)
		since := b.cfg.Journal.SinceCheckpoint()
		if c.checkpoint != nil {
			since = 0
		}
		b.done <- committed{err, b.cfg.Journal.Stats(), since}
		if err == nil && c.checkpoint != nil { // the batch's effects are out meanwhile
			err = b.cfg.Journal.Checkpoint(c.checkpoint)
		}
		if err == nil {
			_ = b.cfg.Journal.Prepare()
		} // after an error the next commit fails the same way
	}
}

func (b *Branch) status() *bankpb.BranchMessage {
	s := b.engine.Status()
	s.Journal = &bankpb.JournalStatus{
		Commits: b.stats.Commits, Bytes: b.stats.Bytes, RecoveryUs: uint64(b.recovery.Microseconds()), //nolint:gosec // a time
		SyncUsLog2: slices.Clone(b.stats.SyncMicrosLog2[:]), SyncUsSum: b.stats.SyncMicrosSum,
	}
	s.TransferUs, s.Window = slices.Clone(b.payer.pace.histogram[:]), uint32(b.payer.pace.window) //nolint:gosec // small
	return engine.StatusMessage(s)
}
