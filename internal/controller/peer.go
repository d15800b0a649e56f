package controller

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"cutbank/internal/roster"
	"cutbank/proto/bankpb"
)

const (
	protocolVersion  = 1
	nonceBytes       = 16
	handshakeTimeout = 2 * time.Second
	writeTimeout     = 10 * time.Second
	minBackoff       = 20 * time.Millisecond
	maxBackoff       = 500 * time.Millisecond
	steadyAfter      = time.Second // a connection that lasted so long starts the backoff anew
	maxFrame         = 64 << 10    // of what a branch sends before it is known
	maxKnownFrame    = 4 << 20     // and after: the links of 1,024 branches fill more than 64 KiB
	maxQueued        = 256         // requests that wait to be written to a branch
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
	status   *bankpb.Status    // the last one
	statusAt time.Time
	polled   time.Time // when the poll under way was sent; zero: none
	nextAsk  time.Time // when to poll again
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
	dialCtx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := c.cfg.Dial(dialCtx, p.branch.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	s := &session{conn: conn, nonce: make([]byte, nonceBytes), out: make(chan *bankpb.BranchMessage, maxQueued)}
	rand.Read(s.nonce) // never fails
	r := bufio.NewReader(conn)
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
		m, err := readMessage(r, maxKnownFrame)
		if err != nil {
			return err
		}
		c.post(func() { c.onMessage(p, s, m) })
	}
}

func attach(s *session, r *bufio.Reader) (*bankpb.Challenge, error) {
	if err := s.conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	hello := &bankpb.Attach{Version: protocolVersion, Nonce: s.nonce}
	m := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: hello}}
	if _, err := protodelim.MarshalTo(s.conn, m); err != nil {
		return nil, err
	}
	answer, err := readMessage(r, maxFrame)
	if err != nil {
		return nil, err
	}
	if e := answer.GetError(); e != nil {
		return nil, fmt.Errorf("refused: %s", e.GetMessage())
	}
	challenge := answer.GetChallenge()
	if challenge == nil || len(challenge.GetNonce()) != nonceBytes {
		return nil, errors.New("does not answer as a branch of cutbank")
	}
	return challenge, s.conn.SetDeadline(time.Time{})
}

// write sends what is queued until the session ends, and ends it on an error.
func (s *session) write(ended <-chan struct{}) {
	w := bufio.NewWriter(s.conn)
	for {
		select {
		case <-ended:
			return
		case m := <-s.out:
			err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if err == nil {
				_, err = protodelim.MarshalTo(w, m)
			}
			if err == nil && len(s.out) == 0 {
				err = w.Flush()
			}
			if err != nil {
				s.conn.Close()
				return
			}
		}
	}
}

// readMessage checks the length that the peer announces before anything is allocated for it.
func readMessage(r *bufio.Reader, limit int64) (*bankpb.BranchMessage, error) {
	m := &bankpb.BranchMessage{}
	if err := (protodelim.UnmarshalOptions{MaxSize: limit}).UnmarshalFrom(r, m); err != nil {
		return nil, err
	}
	return m, nil
}

// reasonOf is an error of a connection in a few words.
func reasonOf(err error) string {
	var tooLong *protodelim.SizeTooLargeError
	var dns *net.DNSError
	var sys *os.SyscallError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed the connection"
	case errors.As(err, &tooLong):
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
