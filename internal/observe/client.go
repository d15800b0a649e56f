package observe

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"cutbank/internal/judge"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Framing is how a message is put on a connection.
type Framing int

// Framings: cutbank's, and others that a branch may have been written for.
const (
	Varint Framing = iota
	None
	BigEndian
	LittleEndian
	NumFramings
)

func (f Framing) frame(m *bankpb.BranchMessage) ([]byte, error) {
	if f == Varint {
		return wire.Append(nil, m), nil
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	length := uint32(len(b)) //nolint:gosec // of a message of ours
	switch f {
	case BigEndian:
		return append(binary.BigEndian.AppendUint32(nil, length), b...), nil
	case LittleEndian:
		return append(binary.LittleEndian.AppendUint32(nil, length), b...), nil
	case Varint, None, NumFramings:
	}
	return b, nil
}

// Client is a controller's connection to one branch, for the assignment's messages. It is dialled
// again when the branch has closed it: some take one message per connection. What the branch sends is
// told as Answer, or BadBytes. Safe for concurrent use.
type Client struct {
	Branch  int
	Address string
	Framing Framing
	Names   []string
	Observe func(judge.Event)

	mu sync.Mutex // held while dialling and writing
	nc net.Conn
	wg sync.WaitGroup

	ended chan struct{} // closed when nc is
}

// Connect dials unless there is a connection.
func (c *Client) Connect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connect(ctx)
}

func (c *Client) connect(ctx context.Context) error {
	if c.nc != nil {
		select {
		case <-c.ended:
		default:
			return nil
		}
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	c.nc, c.ended = nc, ended
	c.wg.Go(func() { defer close(ended); defer func() { _ = nc.Close() }(); c.read(nc) })
	return nil
}

// Send writes a message; before says that it is about to be. Errors are the connection's.
func (c *Client) Send(ctx context.Context, m *bankpb.BranchMessage, before judge.Event) error {
	b, err := c.Framing.frame(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.connect(ctx); err != nil {
		return err
	}
	c.Observe(before)
	if c.write(b) == nil {
		return nil
	}
	_ = c.nc.Close() // the branch had closed it just now, and has not read this
	<-c.ended
	if err := c.connect(ctx); err != nil {
		return err
	}
	return c.write(b)
}

func (c *Client) write(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(link.WriteTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}

// Close ends the connection.
func (c *Client) Close() {
	c.mu.Lock()
	if c.nc != nil {
		_ = c.nc.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func (c *Client) read(nc net.Conn) {
	f := framer{names: c.Names}
	e := judge.Event{From: c.Branch, To: judge.Controller}
	tell := func(bad string) {
		if bad != "" {
			e.Kind, e.Text = judge.BadBytes, "to the controller "+bad
			c.Observe(e)
		}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := nc.Read(buf)
		messages, bad := f.feed(buf[:n])
		for _, m := range messages {
			if m.Note != "" {
				c.Observe(judge.Event{Kind: judge.Note, Text: c.Names[c.Branch] + " " + m.Note})
			}
			if m.Kind == ReturnSnapshot {
				e.Kind, e.ID, e.Balance, e.States = judge.Answer, m.ID, m.Balance, m.States
				c.Observe(e)
			}
		}
		tell(bad)
		if err != nil {
			tell(f.end())
			return
		}
	}
}
