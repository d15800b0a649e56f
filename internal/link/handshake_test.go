package link_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"cutbank/internal/ledger"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

func identity(self int, change func(*link.Identity)) *link.Identity {
	id := &link.Identity{
		Bank: ledger.BankID{1}, Key: []byte("the key of this bank"), Names: []string{"a", "b", "c"}, Self: self, Incarnation: 1,
	}
	if change != nil {
		change(id)
	}
	return id
}

// shake lets one branch dial the other over a pipe, in virtual time.
func shake(dialler, acceptor *link.Identity, peer int, edit func(*bankpb.Hello)) (from int, dialled, accepted error) {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if accepted != nil { // else the dialler may not be done with the connection
				_ = far.Close()
			}
		}()
		r := wire.NewReader(far, wire.MaxFrame)
		var m *bankpb.BranchMessage
		if m, accepted = r.NextMessage(); accepted != nil {
			return
		}
		if edit != nil {
			edit(m.GetHello())
		}
		from, accepted = acceptor.Accept(far, r, m.GetHello())
	}()
	dialled = dialler.Dial(near, wire.NewReader(near, wire.MaxFrame), peer)
	if dialled != nil {
		_ = near.Close() // the acceptor may wait for a proof
	}
	<-done
	_, _ = near.Close(), far.Close()
	return from, dialled, accepted
}

// TestHandshake: only the right two branches of the same bank, the later one dialling, get a link.
func TestHandshake(t *testing.T) {
	t.Parallel()
	otherKey := func(id *link.Identity) { id.Key = []byte("another") }
	for name, test := range map[string]struct {
		dialler, acceptor  *link.Identity
		peer               int
		edit               func(*bankpb.Hello)
		dialled, accepted  string // part of the error; empty: none
		onlyDiallerNotices bool
	}{
		"good":           {dialler: identity(2, nil), acceptor: identity(0, nil)},
		"no key at all":  {dialler: identity(2, func(id *link.Identity) { id.Key = nil }), acceptor: identity(0, func(id *link.Identity) { id.Key = nil })},
		"other bank":     {dialler: identity(2, func(id *link.Identity) { id.Bank[0]++ }), acceptor: identity(0, nil), dialled: "OTHER_BANK", accepted: "another bank"},
		"acceptor's key": {dialler: identity(2, nil), acceptor: identity(0, otherKey), dialled: "does not have the key", onlyDiallerNotices: true},
		"version":        {dialler: identity(2, nil), acceptor: identity(0, nil), edit: func(h *bankpb.Hello) { h.Version++ }, dialled: "VERSION", accepted: "links of version 2"},
		"unknown name":   {dialler: identity(2, nil), acceptor: identity(0, nil), edit: func(h *bankpb.Hello) { h.From = "x" }, dialled: "no peer", accepted: "no peer"},
		"own name":       {dialler: identity(2, nil), acceptor: identity(0, nil), edit: func(h *bankpb.Hello) { h.From = "a" }, dialled: "no peer", accepted: "no peer"},
		"other dialled":  {dialler: identity(2, nil), acceptor: identity(1, nil), dialled: "was dialled, this is b", accepted: "was dialled"},
		"direction":      {dialler: identity(0, nil), acceptor: identity(2, nil), peer: 2, dialled: "later one in the roster dials", accepted: "later one"},
		"short nonce":    {dialler: identity(2, nil), acceptor: identity(0, nil), edit: func(h *bankpb.Hello) { h.Nonce = h.Nonce[:15] }, dialled: "16 bytes", accepted: "16 bytes"},
		"nonce changed":  {dialler: identity(2, nil), acceptor: identity(0, nil), edit: func(h *bankpb.Hello) { h.Nonce[0]++ }, dialled: "does not have the key", onlyDiallerNotices: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				from, dialled, accepted := shake(test.dialler, test.acceptor, test.peer, test.edit)
				if test.onlyDiallerNotices {
					if accepted == nil {
						t.Error("accepted without a proof")
					}
				} else {
					expect(t, "acceptor", accepted, test.accepted)
				}
				expect(t, "dialler", dialled, test.dialled)
				if accepted == nil && from != test.dialler.Self {
					t.Errorf("the dialler is taken for %d", from)
				}
			})
		})
	}
}

func expect(t *testing.T, who string, err error, part string) {
	t.Helper()
	if (err == nil) != (part == "") || err != nil && !strings.Contains(err.Error(), part) {
		t.Errorf("%s: %v, want %q", who, err, part)
	}
}

// TestDiallerWithoutKey: a proof that is not made with the key is refused by the acceptor.
func TestDiallerWithoutKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		refused := make(chan error, 1)
		go func() {
			r := wire.NewReader(far, wire.MaxFrame)
			m, err := r.NextMessage()
			if err == nil {
				_, err = identity(0, nil).Accept(far, r, m.GetHello())
			}
			refused <- errors.Join(err, far.Close())
		}()
		c, r := near, wire.NewReader(near, wire.MaxFrame)
		bank := ledger.BankID{1}
		say(t, c, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: &bankpb.Hello{
			Version: link.Version, BankId: bank[:], From: "c", To: "a", Nonce: make([]byte, 16),
		}}})
		if m, err := r.NextMessage(); err != nil || m.GetHello() == nil {
			t.Fatal(m, err)
		}
		say(t, c, &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Proof{Proof: &bankpb.Proof{Mac: make([]byte, 32)}}})
		if m, err := r.NextMessage(); err != nil || m.GetError().GetCode() != bankpb.Error_DENIED {
			t.Error(m, err)
		}
		expect(t, "acceptor", <-refused, "does not have the key")
	})
}

func say(t *testing.T, nc net.Conn, m *bankpb.BranchMessage) {
	t.Helper()
	if _, err := nc.Write(wire.Append(nil, m)); err != nil {
		t.Fatal(err)
	}
}

// TestSilence: who says nothing is left after HandshakeTimeout, on either side.
func TestSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() { _, _ = wire.NewReader(far, wire.MaxFrame).Next() }()
		var timeout net.Error
		if err := identity(2, nil).Dial(near, wire.NewReader(near, wire.MaxFrame), 0); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("dialler: %v", err)
		}
		_, _ = near.Close(), far.Close()
	})
}

// TestNotOpenYet: a branch without a bank says so, and a missing hello is refused.
func TestNotOpenYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, accept := range map[string]func(net.Conn, *wire.Reader) error{
			"NOT_OPEN": func(nc net.Conn, r *wire.Reader) error {
				return link.NewMesh(link.Config{}).Accept(nc, r, &bankpb.Hello{}, nil)
			},
			"OTHER_BANK": func(nc net.Conn, r *wire.Reader) error {
				m := link.NewMesh(link.Config{})
				m.Start(identity(0, nil), make([]string, 3))
				defer m.Stop()
				return m.Accept(nc, r, &bankpb.Hello{Version: link.Version}, nil)
			},
			"BAD_REQUEST": func(nc net.Conn, r *wire.Reader) error {
				_, err := identity(0, nil).Accept(nc, r, nil)
				return err
			},
		} {
			near, far := net.Pipe()
			go func() { _ = accept(far, wire.NewReader(far, wire.MaxFrame)); _ = far.Close() }()
			m, err := wire.NewReader(near, wire.MaxFrame).NextMessage()
			if err != nil || m.GetError().GetCode().String() != name {
				t.Errorf("got %v, %v, want %s", m, err, name)
			}
		}
	})
}
