package branch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"cutbank/internal/engine"
	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// maxDrain is how many more inputs of a kind are taken before the loop looks around again.
const maxDrain = 64

// maxBatch is how many bytes of events may wait for the batch before them; then no input is taken.
const maxBatch = 4 << 20

// maxAnswers is how many answers may wait for a batch; then no request is taken.
const maxAnswers = 4096

func (b *Branch) loop(ctx context.Context) error {
	beat := time.NewTicker(BeatInterval)
	defer beat.Stop()
	pay := time.NewTimer(b.payer.wait())
	defer pay.Stop()
	for turns := 0; ; {
		if turns = b.gather(turns); turns == 0 {
			b.commit()
		}
		deliveries, requests := b.deliveries, b.requests
		if len(b.engine.Filling.Persist) > maxBatch {
			deliveries, requests = nil, nil
		}
		if b.engine.Answers() > maxAnswers {
			requests = nil
		}
		select {
		case <-ctx.Done():
			return b.finish()
		case c := <-b.done:
			if c.err != nil {
				return c.err
			}
			if n := c.stats.Syncs - b.stats.Syncs; n > 0 {
				b.payer.pace.synced(time.Duration(c.stats.SyncMicrosSum-b.stats.SyncMicrosSum) * time.Microsecond) //nolint:gosec // a time
			}
			b.stats, b.since = c.stats, c.since
			b.letOut()
		case d := <-deliveries:
			now := time.Now().UnixMicro()
			for n := 0; ; n++ {
				if err := b.engine.Deliver(d.Conn.Peer, d.Conn, d, now); err != nil {
					b.report(d.Conn.Peer, err)
				} else if d.Lost != nil {
					b.lost(d.Conn.Peer, d.Lost)
				}
				d.Recycle()
				if n >= maxDrain || len(deliveries) == 0 {
					break
				}
				d = <-deliveries
			}
		case q := <-requests:
			if q.m == nil {
				b.engine.Forget(q.from)
				break
			}
			b.answer(q, pay)
			q.from.taken <- struct{}{}
		case <-pay.C:
			b.turn(pay)
		case <-beat.C:
			b.tellWaits()
		}
		b.healthy()
		if b.payer.interval == 0 && b.engine.Paying() && !b.payer.stopped {
			b.payer.burst(b.engine.Ledger, &b.engine.Filling.Output)
		}
		b.time()
	}
}

// turn makes the transfers that are due, and sets the timer for the next.
func (b *Branch) turn(pay *time.Timer) {
	if b.payer.interval == 0 {
		return // burst
	}
	wait := b.payer.wait()
	if b.engine.Paying() && !b.payer.stopped {
		wait = b.payer.payDue(b.engine.Ledger, &b.engine.Filling.Output, time.Now())
	}
	pay.Reset(wait)
}

// time takes the times of transfers, a sample of them.
func (b *Branch) time() {
	p := &b.payer
	if !p.decided && len(p.pace.under) == 0 {
		return
	}
	now := time.Now()
	p.pace.acknowledged(b.engine.Ledger, now)
	if p.decided {
		p.decided = false
		p.pace.decided(p.latest, b.engine.Ledger.Sent(p.latest), now)
	}
}

// maxTurns is how often readers may go first before a batch is closed.
const maxTurns = 8

// gather lets the readers that have something deliver it first, so that it goes with the batch that is about
// to be closed and costs no sync of its own. It tells how often it has, 0 when nothing more comes.
func (b *Branch) gather(turns int) int {
	if b.inFlight != nil || turns >= maxTurns || !b.engine.Filling.Due() {
		return 0
	}
	runtime.Gosched()
	if len(b.deliveries) == 0 || len(b.engine.Filling.Persist) > maxBatch {
		return 0
	}
	return turns + 1
}

// commit hands the batch over when none is being synced.
func (b *Branch) commit() {
	if b.inFlight == nil && b.engine.Filling.Due() {
		b.handOver()
	}
}

// handOver closes the batch. One without events waits for no sync.
func (b *Branch) handOver() {
	e := b.engine
	b.inFlight = e.Seal()
	if len(b.inFlight.Persist) == 0 {
		b.letOut()
		return
	}
	if b.cfg.Durable { // who reads the journal wants to know when
		b.inFlight.Persist = ledger.Stamp(b.inFlight.Persist, time.Now().UnixMicro())
	}
	c := commit{events: b.inFlight.Persist}
	// Nothing is in flight and the next batch is empty: the ledger stands exactly after this batch.
	if b.since >= b.cfg.CheckpointBytes {
		c.checkpoint = e.Ledger.Checkpoint(nil)
	}
	if b.cfg.Health != nil {
		b.cfg.Health.Syncing(true)
	}
	b.commits <- c
}

// letOut lets the effects out of the batch that has become durable.
func (b *Branch) letOut() {
	if b.cfg.Health != nil {
		b.cfg.Health.Syncing(false)
	}
	b.engine.Release(b.inFlight)
	b.inFlight = nil
}

// finish makes durable what was stepped, and lets it out as far as somebody still listens.
func (b *Branch) finish() error {
	for {
		if b.inFlight != nil {
			c := <-b.done
			if c.err != nil {
				return c.err
			}
			b.letOut()
		}
		if b.engine.Filling.Empty() {
			return nil
		}
		b.handOver()
	}
}

func (b *Branch) healthy() {
	if b.cfg.Health != nil {
		b.cfg.Health.Beat()
		b.cfg.Health.SetReady(b.engine.Ready())
	}
}

// tellWaits says what a branch that is not ready waits for.
func (b *Branch) tellWaits() {
	if b.cfg.Health == nil || b.engine.Ready() {
		return
	}
	if !b.engine.Ledger.Opened() {
		b.cfg.Health.Waits("a controller to open it")
		return
	}
	const shown = 3
	down := b.engine.Down(shown + 1)
	if len(down) > shown {
		down[shown] = "and others"
	}
	b.cfg.Health.Waits("links to " + strings.Join(down, ", "))
}

func (b *Branch) report(peer int, err error) {
	if errors.Is(err, ledger.ErrFence) {
		b.cfg.Logger.Error("link refused", "err", err)
		return
	}
	b.refusals.log("link broken", b.engine.Ledger.Plan().Names[peer], err)
}

// lost logs the end of a link: aloud only when the peer has broken the protocol. Peers come and go.
func (b *Branch) lost(peer int, why error) {
	if errors.Is(why, wire.ErrFrame) {
		b.report(peer, why)
		return
	}
	b.cfg.Logger.Debug("link lost", "peer", b.engine.Ledger.Plan().Names[peer], "reason", wire.Printable(why.Error()))
}

// answer takes a request. In a bank with a key only who proved it is answered.
func (b *Branch) answer(q request, pay *time.Timer) {
	e, c := b.engine, q.from
	if init := q.m.GetInitBranch(); init != nil {
		b.init(c, init)
		return
	}
	if !e.Ledger.Opened() {
		b.refuse(c, bankpb.Error_NOT_OPEN, "not open yet: send InitBranch first")
		return
	}
	if len(e.Ledger.Plan().Key) > 0 && !c.proved.Load() {
		b.refuse(c, bankpb.Error_DENIED, kindOf(q.m)+": this bank has a key: attach as its controller")
		return
	}
	switch m := q.m.GetBranchMessage().(type) {
	case *bankpb.BranchMessage_InitSnapshot:
		e.Initiate(c, m.InitSnapshot.GetSnapshotId(), time.Now().UnixMicro())
	case *bankpb.BranchMessage_RetrieveSnapshot:
		e.Retrieve(c, m.RetrieveSnapshot.GetSnapshotId())
	case *bankpb.BranchMessage_Prove:
		err := b.moved(m.Prove.GetAllBranches())
		b.set(c, m.Prove.GetSettings(), pay, err)
	case *bankpb.BranchMessage_GetStatus:
		b.set(c, m.GetStatus.GetSettings(), pay, nil)
	case *bankpb.BranchMessage_Cut:
		b.cut(c, m.Cut)
	default:
		b.refuse(c, bankpb.Error_BAD_REQUEST, kindOf(q.m)+" is not for a client to send")
	}
}

func kindOf(m *bankpb.BranchMessage) string {
	r := m.ProtoReflect()
	if f := r.WhichOneof(r.Descriptor().Oneofs().Get(0)); f != nil {
		return string(f.Name())
	}
	return "an unknown message"
}

func (b *Branch) init(c *Client, init *bankpb.InitBranch) {
	e := b.engine
	err := checkNames(init.GetAllBranches())
	opened := false
	if err == nil {
		opened, err = e.Open(b.cfg.Name, init)
	}
	if err == nil && !opened {
		err = b.moved(init.GetAllBranches())
	}
	if err != nil {
		code := bankpb.Error_BAD_REQUEST
		if e.Ledger.Opened() {
			code = bankpb.Error_OTHER_BANK
		}
		b.refuse(c, code, "init_branch: "+err.Error())
		return
	}
	c.proved.Store(true) // it has the plan, key and all
	if opened {
		p := e.Ledger.Plan()
		b.cfg.Logger.Info("bank opened", "balance", e.Ledger.Balance(), "branches", len(p.Names), "keyed", len(p.Key) > 0)
		b.linkUp()
	}
	if init.GetPlan() != nil {
		e.Answer(c, b.status())
	}
}

// checkNames says what is wrong with the names of a roster: they go into logs and messages.
func checkNames(all []*bankpb.InitBranch_Branch) error {
	for _, b := range all {
		if err := roster.CheckName(b.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// refuse answers a request with an error, and logs it.
func (b *Branch) refuse(c *Client, code bankpb.Error_Code, text string) {
	b.refusals.log("request refused", c.nc.RemoteAddr().String(), errors.New(text))
	b.engine.Answer(c, engine.ErrorMessage(code, text, 0))
}

// cut takes a link down for a while. In a bank without a key too only a controller of cutbank may.
func (b *Branch) cut(c *Client, m *bankpb.Cut) {
	l := b.engine.Ledger
	peer := slices.Index(l.Plan().Names, m.GetPeer())
	switch {
	case !c.proved.Load():
		b.refuse(c, bankpb.Error_DENIED, "cut: only a controller that has attached may cut a link")
	case peer < 0 || peer == l.Self() || m.GetDurationUs() > uint64(link.MaxCut/time.Microsecond):
		b.engine.Answer(c, engine.ErrorMessage(bankpb.Error_BAD_REQUEST,
			fmt.Sprintf("can't cut the link with %q for %d µs: a peer is needed, and at most %s", m.GetPeer(), m.GetDurationUs(), link.MaxCut), 0))
	default:
		d := time.Duration(m.GetDurationUs()) * time.Microsecond //nolint:gosec // at most MaxCut
		b.cfg.Logger.Info("link cut", "peer", m.GetPeer(), "for", d.String())
		b.mesh.Cut(peer, d)
		b.engine.Answer(c, b.status())
	}
}

// moved takes the addresses that a controller hands out, when they are new.
func (b *Branch) moved(all []*bankpb.InitBranch_Branch) error {
	if len(all) == 0 {
		return nil
	}
	l := b.engine.Ledger
	addresses, err := engine.AddressesOf(all)
	if err != nil {
		return err
	}
	for i, a := range all {
		if len(all) != len(l.Plan().Names) || a.GetName() != l.Plan().Names[i] {
			return errors.New("this bank has other branches: " + l.Plan().Names[0] + ", …")
		}
	}
	for i, a := range addresses {
		if l.Addresses()[i] != a {
			b.mesh.Move(addresses)
			return l.Move(&b.engine.Filling.Output, addresses)
		}
	}
	return nil
}

// set changes the settings that are given, unless something was wrong, and answers with the status.
func (b *Branch) set(c *Client, s *bankpb.Settings, pay *time.Timer, err error) {
	amount := b.payer.amount
	if s != nil && s.Amount != nil && err == nil {
		amount, err = roster.ParseAmount(s.GetAmount())
	}
	if err == nil && s.GetIntervalUs() > uint64(time.Hour/time.Microsecond) {
		err = errors.New("an interval of more than an hour")
	}
	if err != nil {
		b.engine.Answer(c, engine.ErrorMessage(bankpb.Error_BAD_REQUEST, err.Error(), 0))
		return
	}
	b.payer.amount = amount
	if s != nil && s.IntervalUs != nil {
		b.payer.interval = time.Duration(s.GetIntervalUs()) * time.Microsecond //nolint:gosec // at most an hour
		b.payer.due = time.Now().Add(b.payer.wait())
		pay.Reset(time.Until(b.payer.due))
	}
	if s != nil && s.Stopped != nil {
		b.payer.stopped = s.GetStopped()
	}
	b.engine.Answer(c, b.status())
}
