package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
)

// The ceiling program: what this machine can do at all with the guarantee of a durable transfer. Two
// processes, each a loop, a journal goroutine and one link; both pay each other as fast as the window
// lets them. A transfer is 32 bytes in a preallocated file, synced before its frame is written, and
// synced at the receiver before the acknowledgement. No balance, no snapshot, no check, no recovery.

const (
	ceilingRecord = 32       // bytes of an event in the file
	ceilingFile   = 16 << 20 // it is written round and round
	ceilingBatch  = 2048     // transfers that one turn of the loop makes
	ceilingWarmup = 200 * time.Millisecond
)

// ceilingResult is one of its two processes, or both together.
type ceilingResult struct {
	Rate      float64       // transfers acknowledged per second, both directions
	CPU       float64       // nanoseconds per transfer, both processes
	Sync      time.Duration // median
	P50, P99  time.Duration // decided → acknowledged
	Transfers uint64
	Times     []time.Duration `json:",omitempty"` // of one process: sampled transfers
	Syncs     []time.Duration `json:",omitempty"`
}

// runCeiling runs both processes for so long and adds them up. Window 1 is one lone transfer at a
// time, of one process. The delay is added to each sync; a negative one is no sync at all.
func runCeiling(ctx context.Context, dir string, window int, delay, span time.Duration) (ceilingResult, error) {
	self, err := os.Executable()
	if err != nil {
		return ceilingResult{}, err
	}
	var stops []io.Closer
	defer func() {
		for _, s := range stops {
			_ = s.Close()
		}
	}()
	start := func(name, address string) (*exec.Cmd, *bufio.Reader, error) {
		cmd := exec.CommandContext(ctx, self, ceilingWord, filepath.Join(dir, name), address, //nolint:gosec // this program itself
			strconv.Itoa(window), delay.String(), span.String())
		cmd.Stderr = os.Stderr
		out, err1 := cmd.StdoutPipe()
		stop, err2 := cmd.StdinPipe()
		if err := errors.Join(err1, err2); err != nil {
			return nil, nil, err
		}
		stops = append(stops, stop)
		return cmd, bufio.NewReader(out), cmd.Start()
	}
	first, firstOut, err := start("ceiling1", "listen")
	if err != nil {
		return ceilingResult{}, err
	}
	address, err := firstOut.ReadString('\n')
	if err != nil {
		return ceilingResult{}, errors.Join(err, first.Wait())
	}
	second, secondOut, err := start("ceiling2", address[:len(address)-1])
	if err != nil {
		return ceilingResult{}, err
	}
	var a, b ceilingResult
	err = errors.Join(json.NewDecoder(firstOut).Decode(&a), json.NewDecoder(secondOut).Decode(&b),
		stops[0].Close(), stops[1].Close(), first.Wait(), second.Wait())
	times, syncs := append(a.Times, b.Times...), append(a.Syncs, b.Syncs...)
	sum := ceilingResult{Rate: a.Rate + b.Rate, Transfers: a.Transfers + b.Transfers}
	sum.CPU = (a.CPU + b.CPU) / float64(max(1, sum.Transfers))
	sum.P50, sum.P99, sum.Sync = quantile(times, 0.5), quantile(times, 0.99), quantile(syncs, 0.5)
	return sum, err
}

// quantile of times, which it sorts; 0 of none.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}

// ceilingBank is one of the two processes.
type ceilingBank struct {
	conn       net.Conn
	file       *os.File
	window     uint64
	delay      time.Duration
	deliveries chan ceilingDelivery
	commits    chan *ceilingCommit
	done       chan *ceilingCommit

	sent, acked, received uint64
	sample                uint64 // number of the transfer that is timed
	decided               time.Time
	result                ceilingResult
}

type ceilingDelivery struct {
	items int
	ack   uint64
	fail  error
}

type ceilingCommit struct {
	records, frames []byte
	received        uint64 // to acknowledge; 0: nothing new
	took            time.Duration
	err             error
}

// ceilingMain is the program of one of them: file, address or "listen", window, sync delay, span.
func ceilingMain(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%s: %d arguments", ceilingWord, len(args))
	}
	window, err1 := strconv.Atoi(args[2])
	delay, err2 := time.ParseDuration(args[3])
	span, err3 := time.ParseDuration(args[4])
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	file, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if info, err := file.Stat(); err != nil || info.Size() != ceilingFile {
		if _, err := file.WriteAt(make([]byte, ceilingFile), 0); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
	}
	conn, err := ceilingConn(args[1])
	if err != nil {
		return err
	}
	b := &ceilingBank{
		conn: conn, file: file, window: uint64(window), delay: delay, //nolint:gosec // given by runCeiling
		deliveries: make(chan ceilingDelivery, 64), commits: make(chan *ceilingCommit, 1), done: make(chan *ceilingCommit, 1),
	}
	if window == 1 && args[1] == "listen" {
		b.window = 0 // it only answers
	}
	go b.journal()
	go b.read()
	if err := b.run(span); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(b.result); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // the other may measure a moment longer
	return err
}

func ceilingConn(address string) (net.Conn, error) {
	if address != "listen" {
		return net.Dial("tcp", address)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	fmt.Println(l.Addr())
	return l.Accept()
}

func (b *ceilingBank) run(span time.Duration) error {
	filling, spare := new(ceilingCommit), new(ceilingCommit)
	begin, end := time.Now().Add(ceilingWarmup), time.Now().Add(ceilingWarmup+span)
	var from uint64
	var cpu int64
	measuring := false
	over := time.After(time.Until(end))
	for {
		for n := 0; n < ceilingBatch && b.sent-b.acked < b.window; n++ {
			b.sent++
			filling.records = appendRecord(filling.records, b.sent)
			filling.frames = wire.AppendItem(filling.frames, ledger.Item{Money: 1})
		}
		if b.sample <= b.acked && b.sent > b.acked {
			b.sample, b.decided = b.sent, time.Now()
		}
		if spare != nil && len(filling.records) > 0 {
			b.commits <- filling
			filling, spare = spare, nil
		}
		select {
		case c := <-b.done:
			if c.err != nil {
				return c.err
			}
			if measuring && len(b.result.Syncs) < 1<<16 {
				b.result.Syncs = append(b.result.Syncs, c.took)
			}
			c.records, c.frames, c.received = c.records[:0], c.frames[:0], 0
			spare = c
		case <-over:
		case d := <-b.deliveries:
			if d.fail != nil {
				return d.fail
			}
			if d.ack > b.acked {
				b.acked = d.ack
				b.timed(measuring)
			}
			for range d.items {
				b.received++
				filling.records = appendRecord(filling.records, b.received)
			}
			if d.items > 0 {
				filling.received = b.received
			}
		}
		now := time.Now()
		if !measuring && now.After(begin) {
			measuring, begin, from, cpu = true, now, b.acked, cpuTime()
		} else if measuring && !now.Before(end) {
			b.result.Transfers = b.acked - from
			b.result.Rate = float64(b.result.Transfers) / now.Sub(begin).Seconds()
			b.result.CPU = float64(cpuTime() - cpu) // divided when both are there
			return nil
		}
	}
}

// timed notes how long the sampled transfer took, when it is acknowledged.
func (b *ceilingBank) timed(measuring bool) {
	if b.acked >= b.sample && b.sample > 0 && measuring && len(b.result.Times) < 1<<16 {
		b.result.Times = append(b.result.Times, time.Since(b.decided))
	}
}

func appendRecord(b []byte, n uint64) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, //nolint:gosec // little-endian
		1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
}

// journal syncs a batch, and only then writes its frames.
func (b *ceilingBank) journal() {
	var off int64
	for c := range b.commits {
		if off+int64(len(c.records)) > ceilingFile {
			off = 0
		}
		_, c.err = b.file.WriteAt(c.records, off)
		off += int64(len(c.records))
		start := time.Now()
		if b.delay > 0 {
			time.Sleep(b.delay)
		}
		if c.err == nil && b.delay >= 0 {
			c.err = dataSync(b.file)
		}
		c.took = time.Since(start)
		if c.received > 0 {
			c.frames = wire.AppendAck(c.frames, c.received)
		}
		if c.err == nil && len(c.frames) > 0 {
			_, c.err = b.conn.Write(c.frames)
		}
		b.done <- c
	}
}

func (b *ceilingBank) read() {
	r := wire.NewReader(b.conn, wire.MaxFrame)
	for {
		frame, err := r.Next()
		d := ceilingDelivery{}
		for more := true; err == nil && more; frame, more, err = r.Buffered() {
			if _, ok := wire.ParseItem(frame); ok {
				d.items++
				continue
			}
			m, bad := wire.Parse(frame)
			if bad != nil {
				err = bad
				break
			}
			d.ack = max(d.ack, m.GetAck().GetReceived())
		}
		if d.items > 0 || d.ack > 0 {
			b.deliveries <- d
		}
		if err != nil {
			b.deliveries <- ceilingDelivery{fail: err}
			return
		}
	}
}

// cpuTime of this process so far, in nanoseconds.
func cpuTime() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
