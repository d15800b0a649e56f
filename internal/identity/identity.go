// Package identity says who is at the other end of a connection: mutual TLS 1.3 under a private
// authority of the bank, and which addresses may be spoken to without it.
//
// A directory holds, each file 0600:
//
//	ca.pem            the authority's certificate: what all ends trust, and nothing else
//	ca.key            its key: needed to make certificates only, can be kept elsewhere
//	controller.pem    certificate and key of controllers
//	branch-NAME.pem   certificate and key of the branch NAME
//
// A certificate says who its holder is by exactly one URI, "cutbank:controller" or
// "cutbank:branch/NAME": host names and addresses play no part. A controller's can't serve.
//
// Not here: which peer may ask for what (branch), the key of a bank (link, controller).
//
// Invariant: a connection that Accept or Dial returns has its other end's certificate verified.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Peer is who a certificate says its holder is; empty: there is none.
type Peer string

// Controller is every controller.
const Controller Peer = "cutbank:controller"

// Branch is the branch of that name.
func Branch(name string) Peer { return Peer("cutbank:branch/" + name) }

// file of the peer's certificate and key.
func (p Peer) file() string {
	if p == Controller {
		return "controller.pem"
	}
	return "branch-" + string(p[len(Branch("")):]) + ".pem"
}

const (
	authorityFile = "ca.pem"
	authorityKey  = "ca.key"
)

// Certificates are what one end needs to prove itself and to check the others. Nil is plain TCP.
type Certificates struct {
	own  tls.Certificate
	pool *x509.CertPool
}

// Load reads a peer's certificates. Errors name the file, and what to do when one has expired.
func Load(dir string, self Peer) (*Certificates, error) {
	authority, pool, err := loadAuthority(dir)
	if err != nil {
		return nil, err
	}
	own, err := loadPair(filepath.Join(dir, self.file()))
	if err != nil {
		return nil, err
	}
	c := &Certificates{own: own, pool: pool}
	for _, cert := range []*x509.Certificate{authority, own.Leaf} {
		if now := time.Now(); now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
			return nil, fmt.Errorf("%s: the certificate of %q holds from %s to %s, now it is %s: ./launcher certs FILE %[1]s makes a new one",
				dir, cert.Subject.CommonName, day(cert.NotBefore), day(cert.NotAfter), day(now))
		}
	}
	if got, err := c.peer(own.Leaf, x509.ExtKeyUsageClientAuth); err != nil || got != self {
		return nil, fmt.Errorf("%s: is not %s's certificate (%q, %w)", filepath.Join(dir, self.file()), self, got, err)
	}
	return c, nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Accept does the server's half of the handshake, within the deadline of the connection. Errors are
// for logs: they quote what the other end sent.
func (c *Certificates) Accept(nc net.Conn) (net.Conn, Peer, error) {
	if c == nil {
		return nc, "", nil
	}
	conn := tls.Server(nc, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.own},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool, SessionTicketsDisabled: true,
	})
	if err := conn.Handshake(); err != nil {
		return nil, "", err
	}
	peer, err := nameOf(conn.ConnectionState().PeerCertificates[0])
	return encrypted{conn, nc}, peer, err
}

// Dial connects to a branch within the context's time. Error: it does not listen, does not speak TLS,
// or is not that branch.
func (c *Certificates) Dial(ctx context.Context, address, name string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil || c == nil {
		return nc, err
	}
	conn := tls.Client(nc, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.own},
		InsecureSkipVerify: true, //nolint:gosec // of host names, which play no part; VerifyConnection checks all the rest
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, err := c.peer(s.PeerCertificates[0], x509.ExtKeyUsageServerAuth)
			if err == nil && peer != Branch(name) {
				err = fmt.Errorf("%q answered where %s was dialled", peer, name)
			}
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		if errors.Is(err, io.EOF) || errors.As(err, &tls.RecordHeaderError{}) {
			err = fmt.Errorf("does not speak TLS: was it started without --tls? (%w)", err)
		}
		return nil, err
	}
	return encrypted{conn, nc}, nil
}

// encrypted closes at once: the last word of TLS could wait for an end that reads nothing, and who
// closes may be a loop. Nothing rests on that word, since frames have lengths.
type encrypted struct {
	*tls.Conn
	raw net.Conn
}

// Close waits for nothing.
func (e encrypted) Close() error { return e.raw.Close() }

// peer verifies a certificate and is who it says.
func (c *Certificates) peer(cert *x509.Certificate, usage x509.ExtKeyUsage) (Peer, error) {
	_, err := cert.Verify(x509.VerifyOptions{Roots: c.pool, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return "", err
	}
	return nameOf(cert)
}

func nameOf(cert *x509.Certificate) (Peer, error) {
	if len(cert.URIs) != 1 {
		return "", fmt.Errorf("a certificate with %d names, not one", len(cert.URIs))
	}
	return Peer(cert.URIs[0].String()), nil
}

// CheckPlaintext says what plaintext at an address means, unless only this machine can reach it or it
// is wanted. What names the address for the message.
func CheckPlaintext(host, what string, insecure bool) error {
	if insecure || loopback(host) {
		return nil
	}
	return fmt.Errorf("%s is not loopback, and without TLS whoever is on that network can read balances and keys, "+
		"change what is on its way, and act as a branch or as a controller: --tls DIR encrypts and checks both ends, "+
		"--insecure does without", what)
}

// loopback tells whether all addresses of a host are this machine's own. A name that can't be resolved
// is not.
func loopback(host string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	for _, a := range addresses {
		if !a.IP.IsLoopback() {
			return false
		}
	}
	return err == nil && len(addresses) > 0
}

// readFile reads a file; a key must not be readable by others. Links are followed: secrets that an
// orchestrator mounts are links.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o007 != 0 && filepath.Base(path) != authorityFile {
		return nil, fmt.Errorf("%s has mode %s: it is to be a file that others can't read (chmod 600)", path, info.Mode())
	}
	return os.ReadFile(path) //nolint:gosec // named by the user
}
