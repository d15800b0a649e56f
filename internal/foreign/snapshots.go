package foreign

import (
	"context"
	"sync"
	"syscall"
	"time"

	"cutbank/internal/judge"
	"cutbank/proto/bankpb"
)

// snapshots takes them until the end that is configured, and calls stop then.
func (b *bank) snapshots(ctx context.Context, stop context.CancelFunc) {
	var running sync.WaitGroup
	defer running.Wait()
	if b.cfg.Duration > 0 {
		defer time.AfterFunc(b.cfg.Duration, stop).Stop()
	}
	if b.cfg.Chaos > 0 {
		running.Go(func() { b.chaos(ctx) })
		defer stop()
	}
	var taken sync.WaitGroup
	defer taken.Wait()
	limit := make(chan struct{}, maxPending)
	wait := firstSnapshot
	for id := uint64(1); sleep(ctx, wait); id++ {
		select {
		case limit <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if b.alive() == 0 {
			b.cfg.Say("all branches have ended")
			return
		}
		taken.Go(func() { b.snapshot(ctx, id); <-limit })
		if b.cfg.Snapshots > 0 && id >= uint64(b.cfg.Snapshots) {
			return
		}
		wait = b.cfg.SnapshotInterval
	}
}

// snapshot asks a random branch to start one, waits the fixed time, and asks all for their part.
func (b *bank) snapshot(ctx context.Context, id uint64) {
	s := &pending{missing: len(b.names)}
	b.mu.Lock()
	var able []int
	for i, p := range b.processes {
		if p.running() {
			able = append(able, i)
		}
	}
	if len(able) == 0 {
		b.mu.Unlock()
		return
	}
	initiator := able[b.random.IntN(len(able))]
	s.Snapshot = Snapshot{ID: id, Initiator: b.names[initiator], Started: time.Now(), Parts: make([]*bankpb.ReturnSnapshot_LocalSnapshot, len(b.names))}
	b.pending[id] = s
	delete(b.pending, id-min(id, 4*maxPending)) // late answers to it are no news any more
	b.mu.Unlock()

	err := b.clients[initiator].Send(ctx, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitSnapshot{
		InitSnapshot: &bankpb.InitSnapshot{SnapshotId: id},
	}}, judge.Event{Kind: judge.Snapshot, From: judge.Controller, To: initiator, ID: id})
	if err != nil {
		b.cfg.Say("%s: InitSnapshot %d could not be sent: %v", b.names[initiator], id, err)
		return // nobody can have answered
	}
	if !sleep(ctx, b.cfg.SnapshotWait) {
		return
	}
	b.mu.Lock()
	s.asked = time.Now()
	b.mu.Unlock()
	for i, c := range b.clients {
		err := c.Send(ctx, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_RetrieveSnapshot{
			RetrieveSnapshot: &bankpb.RetrieveSnapshot{SnapshotId: id},
		}}, judge.Event{Kind: judge.Retrieve, From: judge.Controller, To: i, ID: id})
		if err != nil && !b.cfg.Restart && b.process(i).running() {
			b.cfg.Say("%s: RetrieveSnapshot %d could not be sent: %v", b.names[i], id, err)
		}
	}
	b.until(ctx, answerWait, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return s.missing == 0
	})
	if ctx.Err() != nil {
		return
	}
	b.over(s)
}

// over ends the wait for a snapshot's answers.
func (b *bank) over(s *pending) {
	b.mu.Lock()
	s.over, s.Took = true, time.Since(s.Started)
	result := s.Snapshot
	result.Parts = append([]*bankpb.ReturnSnapshot_LocalSnapshot(nil), s.Parts...)
	b.mu.Unlock()
	for i, p := range result.Parts {
		if p == nil && b.process(i).running() {
			b.observe(judge.Event{Kind: judge.Missing, From: i, To: judge.Controller, ID: s.ID, Text: answerWait.String()})
		}
	}
	b.cfg.OnSnapshot(result)
}

// answered takes a branch's part; b.mu is held.
func (b *bank) answered(e judge.Event) {
	s := b.pending[e.ID]
	if s == nil || s.Parts[e.From] != nil {
		return
	}
	if s.over {
		go b.cfg.Say("%s answered snapshot %d late: %s after RetrieveSnapshot", b.names[e.From], e.ID, time.Since(s.asked).Round(time.Millisecond))
	}
	s.Parts[e.From] = &bankpb.ReturnSnapshot_LocalSnapshot{SnapshotId: e.ID, Balance: e.Balance, ChannelState: e.States}
	s.missing--
}

// chaos kills or pauses a random branch now and then. Without Restart it only pauses.
func (b *bank) chaos(ctx context.Context) {
	for {
		b.mu.Lock()
		wait := time.Duration(b.random.Int64N(2 * int64(b.cfg.Chaos)))
		victim := b.random.IntN(len(b.names))
		kill := b.cfg.Restart && b.random.IntN(2) == 0
		pause := 200*time.Millisecond + time.Duration(b.random.Int64N(int64(time.Second)))
		b.mu.Unlock()
		if !sleep(ctx, wait) {
			return
		}
		p := b.process(victim)
		switch {
		case !p.running():
		case kill:
			b.observe(judge.Event{Kind: judge.Killed, From: victim, To: victim})
			b.cfg.Say("chaos: kill %s (pid %d)", b.names[victim], p.cmd.Process.Pid)
			p.signal(syscall.SIGKILL, true)
		default:
			b.observe(judge.Event{Kind: judge.Paused, From: victim, To: victim})
			b.cfg.Say("chaos: pause %s (pid %d) for %s", b.names[victim], p.cmd.Process.Pid, pause.Round(time.Millisecond))
			p.signal(syscall.SIGSTOP, false)
			sleep(ctx, pause)
			p.signal(syscall.SIGCONT, false)
		}
	}
}
