package branch

import (
	"context"
	"crypto/hmac"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cutbank/internal/engine"
	"cutbank/internal/identity"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// maxReplies is how many answers may wait to be written to a client; one more closes it.
const maxReplies = 256

// Client is a connection of a controller, of cutbank or of the assignment.
type Client struct {
	nc     net.Conn
	proved atomic.Bool // holds the key, or opened the bank
	out    chan *bankpb.BranchMessage
	taken  chan struct{} // capacity 1: the loop is done with a request
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
		seat := b.strangers.enter(nc)
		wg.Go(func() {
			defer b.strangers.leave(seat)
			release := context.AfterFunc(ctx, func() { _ = nc.Close() })
			defer release()
			defer func() { _ = nc.Close() }()
			if err := b.serve(ctx, nc, seat); err != nil && ctx.Err() == nil {
				b.ended(nc, err)
			}
		})
	}
}

// ended logs why a connection is over: aloud when it was refused.
func (b *Branch) ended(nc net.Conn, err error) {
	var refusal *link.Refusal
	if errors.As(err, &refusal) || errors.Is(err, wire.ErrFrame) {
		b.refusals.log("connection refused", nc.RemoteAddr().String(), err)
		return
	}
	b.cfg.Logger.Debug("connection ended", "from", nc.RemoteAddr().String(), "err", wire.Printable(err.Error()))
}

// serve finds out by certificate and first message whether a branch or a client has dialled.
func (b *Branch) serve(ctx context.Context, nc net.Conn, seat *seat) error {
	if err := nc.SetDeadline(time.Now().Add(link.HandshakeTimeout)); err != nil {
		return err
	}
	nc, who, err := b.identify(nc)
	if err != nil {
		return err
	}
	r := wire.NewReader(nc, wire.MaxRosterFrame)
	defer b.large(nc, r)()
	m, err := r.NextMessage()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	switch {
	case hello != nil && who != "" && who != identity.Branch(hello.GetFrom()):
		err = b.denied("the certificate is %q, the hello of %q", who, hello.GetFrom())
		return errors.Join(err, link.Refuse(nc, err))
	case hello == nil && who != "" && who != identity.Controller:
		err = b.denied("the certificate is %q, and %s is for a controller to send", who, kindOf(m))
		return errors.Join(err, link.Refuse(nc, err))
	case hello != nil:
		r.Limit(wire.MaxFrame)
		return b.mesh.Accept(nc, r, hello, func() { b.strangers.leave(seat) })
	}
	c := &Client{
		nc: nc, out: make(chan *bankpb.BranchMessage, maxReplies), taken: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	var writer sync.WaitGroup
	writer.Go(c.writeLoop)
	defer writer.Wait()
	defer c.close()
	defer b.request(ctx, request{from: c})
	if attach := m.GetAttach(); attach != nil {
		if m, err = b.attach(c, r, attach); err != nil {
			return err
		}
	}
	return b.serveRequests(ctx, c, r, m, seat)
}

// identify asks for the other end's certificate, when this bank has any.
func (b *Branch) identify(nc net.Conn) (net.Conn, identity.Peer, error) {
	conn, who, err := b.cfg.Certificates.Accept(nc)
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) && plain.Conn != nil {
		err = b.denied("this branch speaks TLS only: --tls names the directory of certificates")
		return nil, "", errors.Join(err, link.Refuse(plain.Conn, err))
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = b.denied("no TLS handshake within %s", link.HandshakeTimeout)
	case err != nil && !quiet(err):
		err = b.denied("%w", err)
	}
	return conn, who, err
}

// dialFailed logs why a link did not come up: aloud when one of the ends refused the other.
func (b *Branch) dialFailed(peer string, err error) {
	var refusal *link.Refusal
	if errors.As(err, &refusal) && refusal.Code != bankpb.Error_NOT_OPEN || refusal == nil && !quiet(err) {
		b.refusals.log("dial failed", peer, err)
		return
	}
	b.cfg.Logger.Debug("dial failed", "peer", peer, "err", wire.Printable(err.Error()))
}

func (b *Branch) denied(format string, args ...any) *link.Refusal {
	return &link.Refusal{Code: bankpb.Error_DENIED, Text: fmt.Errorf(format, args...).Error()}
}

// quiet tells that a connection just ended, as they do: nobody was refused.
func quiet(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op != "remote error" // an alert of TLS: the other end refuses
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// large bounds how many connections have a large buffer.
func (b *Branch) large(nc net.Conn, r *wire.Reader) (done func()) {
	var seat *seat
	r.Large = func(large bool) {
		if large {
			seat = b.bulky.enter(nc)
		} else {
			b.bulky.leave(seat)
		}
	}
	return func() {
		if seat != nil {
			b.bulky.leave(seat)
		}
	}
}

// serveRequests hands a client's requests to the loop, one at a time, which decides what it may ask.
// In a bank with a key, who has not proved it has one request, and that is refused.
func (b *Branch) serveRequests(ctx context.Context, c *Client, r *wire.Reader, m *bankpb.BranchMessage, stranger *seat) error {
	var client *seat
	defer func() {
		if client != nil {
			b.clients.leave(client)
		}
	}()
	for {
		if m != nil {
			b.request(ctx, request{from: c, m: m})
			select {
			case <-c.taken:
			case <-ctx.Done():
				return ctx.Err()
			}
			if !b.admitted(c) {
				return b.lastWord(c, r)
			}
		}
		if client == nil {
			b.strangers.leave(stranger)
			client = b.clients.enter(c.nc)
		}
		b.clients.used(client)
		err := c.nc.SetReadDeadline(time.Time{})
		if err == nil {
			err = r.Wait()
		}
		if err == nil {
			err = c.nc.SetReadDeadline(time.Now().Add(FrameTimeout))
		}
		if err == nil {
			m, err = r.NextMessage()
		}
		if err != nil {
			return err
		}
	}
}

// admitted tells that the client may go on asking.
func (b *Branch) admitted(c *Client) bool {
	id := b.mesh.Identity()
	return id == nil || len(id.Key) == 0 || c.proved.Load()
}

func (b *Branch) request(ctx context.Context, q request) {
	select {
	case b.requests <- q:
	case <-ctx.Done():
	}
}

// attach answers Attach with a Challenge, and returns the Prove of a controller that holds the key;
// nothing when the branch belongs to no bank yet.
func (b *Branch) attach(c *Client, r *wire.Reader, attach *bankpb.Attach) (*bankpb.BranchMessage, error) {
	id := b.mesh.Identity()
	ch := &bankpb.Challenge{
		Version: link.Version, Name: b.cfg.Name, Open: id != nil, Nonce: link.Challenge(), Durable: b.cfg.Durable,
	}
	if attach.GetVersion() != link.Version || len(attach.GetNonce()) != 16 {
		err := &link.Refusal{Code: bankpb.Error_VERSION, Text: fmt.Sprintf(
			"attach of version %d: this branch speaks %d, with a nonce of 16 bytes", attach.GetVersion(), link.Version)}
		c.Reply(engine.ErrorMessage(err.Code, err.Text, 0))
		return nil, errors.Join(err, b.lastWord(c, r))
	}
	if id != nil {
		ch.BankId, ch.Keyed = id.Bank[:], len(id.Key) > 0
		if ch.Keyed {
			ch.Mac = link.BranchMAC(id.Key, attach.GetNonce(), ch.GetNonce(), ch.GetBankId(), b.cfg.Name)
		}
	}
	c.Reply(&bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Challenge{Challenge: ch}})
	if id == nil {
		return nil, nil
	}
	m, err := r.NextMessage()
	if err != nil {
		return nil, err
	}
	if ch.Keyed && !hmac.Equal(m.GetProve().GetMac(), link.ControllerMAC(id.Key, attach.GetNonce(), ch.GetNonce(), ch.GetBankId(), b.cfg.Name)) {
		err := b.denied("the controller does not have the key of this bank")
		c.Reply(engine.ErrorMessage(err.Code, err.Text, 0))
		return nil, errors.Join(err, b.lastWord(c, r))
	}
	c.proved.Store(true)
	return m, nil
}

// maxUnheard is how many more requests are read of a client that was refused.
const maxUnheard = 64

// lastWord lets a last word reach the client, which may have asked more already: it reads on, to no effect, for a
// moment.
func (b *Branch) lastWord(c *Client, r *wire.Reader) error {
	err := c.nc.SetReadDeadline(time.Now().Add(link.HandshakeTimeout))
	for n := 0; n < maxUnheard && err == nil; n++ {
		_, err = r.Next()
	}
	return err
}
