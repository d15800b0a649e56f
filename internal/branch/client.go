package branch

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cutbank/internal/engine"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Limits of connections that are not links.
const (
	MaxConnections = 2048 // strangers and clients together; one more is closed at once
	maxReplies     = 256  // answers waiting to be written to a client; one more closes it
)

// Client is a connection of a controller, of cutbank or of the assignment.
type Client struct {
	nc     net.Conn
	proved atomic.Bool // holds the key, or opened the bank
	out    chan *bankpb.BranchMessage
	gone   chan struct{}
	once   sync.Once
}

// Reply queues an answer; a client that does not read its answers is closed.
func (c *Client) Reply(m *bankpb.BranchMessage) {
	select {
	case c.out <- m:
	default:
		c.close()
	}
}

func (c *Client) close() {
	c.once.Do(func() {
		close(c.gone)
		_ = c.nc.Close()
	})
}

func (c *Client) writeLoop() {
	var buf []byte
	for {
		select {
		case <-c.gone:
			return
		case m := <-c.out:
			buf = wire.Append(buf[:0], m)
			if c.nc.SetWriteDeadline(time.Now().Add(link.WriteTimeout)) != nil {
				return
			}
			if _, err := c.nc.Write(buf); err != nil {
				c.close()
				return
			}
		}
	}
}

// request is a message of a client, or that it is gone (m nil).
type request struct {
	from *Client
	m    *bankpb.BranchMessage
}

// acceptLoop serves connections until the listener is closed, then waits for them.
func (b *Branch) acceptLoop(ctx context.Context, listener net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var open atomic.Int64
	for {
		nc, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			b.cfg.Logger.Warn("accept failed", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond): // out of descriptors: let some be closed
			}
			continue
		}
		if open.Add(1) > MaxConnections {
			open.Add(-1)
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			defer open.Add(-1)
			release := context.AfterFunc(ctx, func() { _ = nc.Close() })
			defer release()
			defer func() { _ = nc.Close() }()
			if err := b.serve(ctx, nc); err != nil && ctx.Err() == nil {
				b.cfg.Logger.Debug("connection ended", "from", nc.RemoteAddr().String(), "err", err)
			}
		})
	}
}

// serve finds out by the first message whether a branch or a client has dialled.
func (b *Branch) serve(ctx context.Context, nc net.Conn) error {
	if err := nc.SetDeadline(time.Now().Add(link.HandshakeTimeout)); err != nil {
		return err
	}
	r := wire.NewReader(nc, wire.MaxInitFrame)
	m, err := r.NextMessage()
	if err != nil {
		return err
	}
	if hello := m.GetHello(); hello != nil {
		return b.mesh.Accept(nc, r, hello)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c := &Client{nc: nc, out: make(chan *bankpb.BranchMessage, maxReplies), gone: make(chan struct{})}
	var writer sync.WaitGroup
	writer.Go(c.writeLoop)
	defer writer.Wait()
	defer c.close()
	defer b.request(ctx, request{from: c})
	if attach := m.GetAttach(); attach != nil {
		return b.serveController(ctx, c, r, attach)
	}
	return b.serveRequests(ctx, c, r, m)
}

// serveRequests hands a client's requests to the loop, which decides what it may ask.
func (b *Branch) serveRequests(ctx context.Context, c *Client, r *wire.Reader, m *bankpb.BranchMessage) error {
	var err error
	for {
		if m != nil {
			b.request(ctx, request{from: c, m: m})
		}
		if m, err = r.NextMessage(); err != nil {
			return err
		}
	}
}

func (b *Branch) request(ctx context.Context, q request) {
	select {
	case b.requests <- q:
	case <-ctx.Done():
	}
}

// serveController answers Attach with a Challenge, and takes requests once the key is proved or the
// bank is opened by this very connection.
func (b *Branch) serveController(ctx context.Context, c *Client, r *wire.Reader, attach *bankpb.Attach) error {
	id := b.mesh.Identity()
	ch := &bankpb.Challenge{
		Version: link.Version, Name: b.cfg.Name, Open: id != nil, Nonce: link.Challenge(), Durable: b.cfg.Durable,
	}
	if attach.GetVersion() != link.Version || len(attach.GetNonce()) != 16 {
		c.Reply(engine.ErrorMessage(bankpb.Error_VERSION,
			fmt.Sprintf("attach of version %d: this branch speaks %d, with a nonce of 16 bytes", attach.GetVersion(), link.Version), 0))
		return b.drainReplies(c, r)
	}
	if id != nil {
		ch.BankId, ch.Keyed = id.Bank[:], len(id.Key) > 0
		if ch.Keyed {
			ch.Mac = link.BranchMAC(id.Key, attach.GetNonce(), ch.GetNonce(), ch.GetBankId(), b.cfg.Name)
		}
	}
	c.Reply(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Challenge{Challenge: ch}})
	if id == nil {
		return b.serveRequests(ctx, c, r, nil)
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(link.HandshakeTimeout)); err != nil {
		return err
	}
	m, err := r.NextMessage()
	if err != nil {
		return err
	}
	prove := m.GetProve()
	if ch.Keyed && !hmac.Equal(prove.GetMac(), link.ControllerMAC(id.Key, attach.GetNonce(), ch.GetNonce(), ch.GetBankId(), b.cfg.Name)) {
		c.Reply(engine.ErrorMessage(bankpb.Error_DENIED, "the controller does not have the key of this bank", 0))
		return b.drainReplies(c, r)
	}
	c.proved.Store(true)
	if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return b.serveRequests(ctx, c, r, m)
}

// drainReplies lets a last word reach the client: it reads on, to no effect, for a moment.
func (b *Branch) drainReplies(c *Client, r *wire.Reader) error {
	if err := c.nc.SetReadDeadline(time.Now().Add(link.HandshakeTimeout)); err != nil {
		return err
	}
	_, err := r.Next()
	return err
}
