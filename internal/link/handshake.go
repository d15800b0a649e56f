package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"cutbank/internal/ledger"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// Version of the links' and controllers' messages. Another one is refused.
const Version = 1

// HandshakeTimeout bounds how long a stranger may take to say who it is.
const HandshakeTimeout = 2 * time.Second

// ErrRefused is the peer's answer when it does not want this link; the text says why.
var ErrRefused = errors.New("refused by the peer")

// Refusal is why a connection is not taken; the code goes back to the other end.
type Refusal struct {
	Code bankpb.Error_Code
	Text string
}

func (e *Refusal) Error() string { return e.Text }

// Identity is who a branch is and which bank it belongs to.
type Identity struct {
	Bank        ledger.BankID
	Key         []byte // empty: the bank has none
	Names       []string
	Self        int
	Incarnation uint64
}

// Challenge makes the 16 random bytes that the other side has to answer to.
func Challenge() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return b
}

// Dial does the dialler's half of the handshake with a peer: Hello out, Hello in, Proof out.
func (id *Identity) Dial(nc net.Conn, r *wire.Reader, peer int) error {
	if err := nc.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return err
	}
	mine := id.hello(id.Names[peer])
	if err := write(nc, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: mine}}); err != nil {
		return err
	}
	m, err := r.NextMessage()
	if err != nil {
		return err
	}
	if e := m.GetError(); e != nil {
		return fmt.Errorf("%w: %s: %w", ErrRefused, e.GetCode(), &Refusal{e.GetCode(), fmt.Sprintf("%q", e.GetMessage())})
	}
	theirs := m.GetHello()
	if from, err := id.check(theirs); err != nil {
		return err
	} else if from != peer {
		return &Refusal{bankpb.Error_BAD_REQUEST, fmt.Sprintf("%q answered where %s was dialled", theirs.GetFrom(), id.Names[peer])}
	}
	if !hmac.Equal(theirs.GetMac(), id.mac("accepts", mine, theirs)) {
		return &Refusal{bankpb.Error_DENIED, "the peer does not have the key of this bank"}
	}
	proof := &bankpb.Proof{Mac: id.mac("dials", mine, theirs)}
	if err := write(nc, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Proof{Proof: proof}}); err != nil {
		return err
	}
	return nc.SetDeadline(time.Time{})
}

// Accept does the other half, after the Hello that the dialler spoke first: who it is, proved.
func (id *Identity) Accept(nc net.Conn, r *wire.Reader, theirs *bankpb.Hello) (peer int, err error) {
	if err := nc.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return 0, err
	}
	peer, err = id.check(theirs)
	if err == nil && peer < id.Self {
		err = &Refusal{bankpb.Error_BAD_REQUEST, "of two branches the later one in the roster dials"}
	}
	if err != nil {
		return 0, errors.Join(err, Refuse(nc, err))
	}
	mine := id.hello(id.Names[peer])
	mine.Mac = id.mac("accepts", theirs, mine)
	if err := write(nc, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: mine}}); err != nil {
		return 0, err
	}
	m, err := r.NextMessage()
	if err != nil {
		return 0, err
	}
	if !hmac.Equal(m.GetProof().GetMac(), id.mac("dials", theirs, mine)) {
		err := &Refusal{bankpb.Error_DENIED, "the dialler does not have the key of this bank"}
		return 0, errors.Join(err, Refuse(nc, err))
	}
	return peer, nc.SetDeadline(time.Time{})
}

// Refuse tells the other side why its connection is closed.
func Refuse(nc net.Conn, reason error) error {
	e := &bankpb.Error{Code: bankpb.Error_BAD_REQUEST, Message: wire.Short(reason.Error())}
	if h := (*Refusal)(nil); errors.As(reason, &h) {
		e.Code = h.Code
	}
	return write(nc, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Error{Error: e}})
}

func (id *Identity) hello(to string) *bankpb.Hello {
	return &bankpb.Hello{
		Version: Version, BankId: id.Bank[:], From: id.Names[id.Self], To: to,
		Incarnation: id.Incarnation, Nonce: Challenge(),
	}
}

func (id *Identity) check(h *bankpb.Hello) (from int, err error) {
	from = slices.Index(id.Names, h.GetFrom())
	switch {
	case h == nil:
		return 0, &Refusal{bankpb.Error_BAD_REQUEST, "no hello"}
	case h.GetVersion() != Version:
		return 0, &Refusal{bankpb.Error_VERSION, fmt.Sprintf("links of version %d, this one speaks %d", h.GetVersion(), Version)}
	case string(h.GetBankId()) != string(id.Bank[:]):
		return 0, &Refusal{bankpb.Error_OTHER_BANK, fmt.Sprintf("%q belongs to another bank", h.GetFrom())}
	case from < 0 || from == id.Self:
		return 0, &Refusal{bankpb.Error_BAD_REQUEST, fmt.Sprintf("%q is no peer of %s", h.GetFrom(), id.Names[id.Self])}
	case h.GetTo() != id.Names[id.Self]:
		return 0, &Refusal{bankpb.Error_BAD_REQUEST, fmt.Sprintf("%q was dialled, this is %s", h.GetTo(), id.Names[id.Self])}
	case len(h.GetNonce()) != 16:
		return 0, &Refusal{bankpb.Error_BAD_REQUEST, "a nonce has 16 bytes"}
	}
	return from, nil
}

// mac proves the key over both hellos' names, incarnations and nonces; empty in a bank without key.
func (id *Identity) mac(role string, dialler, acceptor *bankpb.Hello) []byte {
	if len(id.Key) == 0 {
		return nil
	}
	h := hmac.New(sha256.New, id.Key)
	fmt.Fprintf(h, "cutbank link v1 %s %x %q %d %x %q %d %x", role, id.Bank,
		dialler.GetFrom(), dialler.GetIncarnation(), dialler.GetNonce(),
		acceptor.GetFrom(), acceptor.GetIncarnation(), acceptor.GetNonce())
	return h.Sum(nil)
}

func write(nc net.Conn, m *bankpb.BranchMessage) error {
	_, err := nc.Write(wire.Append(nil, m))
	return err
}
