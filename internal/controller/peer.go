package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"cutbank/internal/link"
	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

const (
	nonceBytes  = 16
	minBackoff  = 20 * time.Millisecond
	maxBackoff  = 500 * time.Millisecond
	steadyAfter = time.Second // a connection that lasted so long starts the backoff anew
	maxQueued   = 256         // requests that wait to be written to a branch
)

// peer is a branch as the controller sees it. Only the loop touches it.
type peer struct {
	index    int
	branch   roster.Branch
	session  *session          // nil while there is no connection
	fact     *bankpb.Challenge // the last one it sent; nil until the first
	asked    bool              // the challenge of this session was answered
	proved   bool              // and so was our answer
	reason   string            // why it is not proved, for people
	since    time.Time         // of that reason
	refused  string            // why it was, as the log says
	status   *bankpb.Status    // the last one
	statusAt time.Time
	began    *bankpb.Status // the first one of this run
	nextAsk  time.Time      // when to poll again

	unanswered int       // of what was asked
	heard      time.Time // since when it owes the next answer
}

// ask sends what a branch answers with its status or an error without a snapshot: Prove, InitBranch,
// GetStatus and Cut. It answers in order.
func (p *peer) ask(m *bankpb.BranchMessage) {
	if p.unanswered++; p.unanswered == 1 {
		p.heard = time.Now()
	}
	p.session.send(m)
}

func (p *peer) answered() { p.unanswered, p.heard = max(0, p.unanswered-1), time.Now() }

// owes is which answer does not come.
func (p *peer) owes() string {
	switch {
	case p.proved:
		return "no answer"
	case p.fact.GetOpen():
		return "no answer to Prove"
	default:
		return "no answer to InitBranch"
	}
}

// session is one connection to a branch.
type session struct {
	conn  net.Conn
	nonce []byte // ours
	out   chan *bankpb.BranchMessage
}

// send never waits: a branch that takes nothing for so long is dialled again, and all that is
// outstanding is repeated.
func (s *session) send(m *bankpb.BranchMessage) {
	select {
	case s.out <- m:
	default:
		s.conn.Close()
	}
}

// keepConnected dials the branch until ctx ends.
func (c *Controller) keepConnected(ctx context.Context, p *peer) {
	backoff := minBackoff
	for ctx.Err() == nil {
		start := time.Now()
		err := c.serve(ctx, p)
		if time.Since(start) > steadyAfter {
			backoff = minBackoff
		}
		c.post(func() { c.onDisconnect(p, err) })
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// serve dials once, attaches, and passes what the branch sends to the loop until the connection
// ends. It returns why.
func (c *Controller) serve(ctx context.Context, p *peer) error {
	dialCtx, cancel := context.WithTimeout(ctx, link.HandshakeTimeout)
	defer cancel()
	conn, err := c.cfg.Certificates.Dial(dialCtx, p.branch.Addr(), p.branch.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	s := &session{conn: conn, nonce: make([]byte, nonceBytes), out: make(chan *bankpb.BranchMessage, maxQueued)}
	rand.Read(s.nonce) // never fails
	r := wire.NewReader(conn, wire.MaxRosterFrame)
	challenge, err := attach(s, r)
	if err != nil {
		return err
	}
	var writer sync.WaitGroup
	defer writer.Wait()
	ended := make(chan struct{})
	defer close(ended)
	writer.Go(func() { s.write(ended) })

	c.post(func() { c.onChallenge(p, s, challenge) })
	for {
		m, err := r.NextMessage()
		if err != nil {
			return err
		}
		clean(m)
		c.post(func() { c.onMessage(p, s, m) })
	}
}

// clean makes the texts of a branch harmless where people read them.
func clean(m *bankpb.BranchMessage) {
	if e := m.GetError(); e != nil {
		e.Message = wire.Printable(e.GetMessage())
	}
	for i, name := range m.GetStatus_().GetRoster() {
		m.GetStatus_().Roster[i] = wire.Printable(name)
	}
	for _, l := range m.GetStatus_().GetLinks() {
		l.Peer, l.Refused = wire.Printable(l.GetPeer()), wire.Printable(l.GetRefused())
	}
	if p := m.GetReturnSnapshot().GetLocalSnapshot(); p != nil {
		p.FirstMarkerFrom = wire.Printable(p.GetFirstMarkerFrom())
	}
}

func attach(s *session, r *wire.Reader) (*bankpb.Challenge, error) {
	if err := s.conn.SetDeadline(time.Now().Add(link.HandshakeTimeout)); err != nil {
		return nil, err
	}
	hello := &bankpb.Attach{Version: link.Version, Nonce: s.nonce}
	m := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: hello}}
	if _, err := s.conn.Write(wire.Append(nil, m)); err != nil {
		return nil, err
	}
	answer, err := r.NextMessage()
	if err != nil {
		return nil, err
	}
	if e := answer.GetError(); e != nil {
		return nil, fmt.Errorf("refuses this controller: %s", wire.Printable(e.GetMessage()))
	}
	challenge := answer.GetChallenge()
	if challenge == nil || len(challenge.GetNonce()) != nonceBytes {
		return nil, errors.New("does not answer as a branch of cutbank")
	}
	return challenge, s.conn.SetDeadline(time.Time{})
}

// write sends what is queued until the session ends, and ends it on an error.
func (s *session) write(ended <-chan struct{}) {
	var buf []byte
	for {
		select {
		case <-ended:
			return
		case m := <-s.out:
			buf = wire.Append(buf[:0], m)
			err := s.conn.SetWriteDeadline(time.Now().Add(link.WriteTimeout))
			if err == nil {
				_, err = s.conn.Write(buf)
			}
			if err != nil {
				s.conn.Close()
				return
			}
		}
	}
}

// reasonOf is an error of a connection in a few words.
func reasonOf(err error) string {
	var dns *net.DNSError
	var sys *os.SyscallError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed the connection"
	case errors.Is(err, wire.ErrFrame):
		return "does not answer as a branch of cutbank"
	case errors.As(err, &dns):
		return "host not found"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.As(err, &sys):
		return sys.Err.Error()
	default:
		return err.Error()
	}
}
