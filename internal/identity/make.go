package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// How long certificates hold. Make replaces those that end within Renew.
const (
	authorityYears = 20
	Validity       = 2 * 365 * 24 * time.Hour
	Renew          = 90 * 24 * time.Hour
)

// Make makes in a directory what is not there yet for a bank of these branches: the authority, and the
// certificates of controllers and of each branch. Those that have expired or will within Renew are
// replaced. Made names the files. Error: a file that can't be read, or no key of the authority where
// something is to be made.
func Make(dir string, branches []string, now time.Time) (made []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, authorityFile)); errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(dir, now); err != nil {
			return nil, err
		}
		made = append(made, authorityFile)
	}
	peers := []Peer{Controller}
	for _, name := range branches {
		peers = append(peers, Branch(name))
	}
	var sign *issuer
	for _, p := range peers {
		path := filepath.Join(dir, p.file())
		pair, err := loadPair(path)
		if err == nil && pair.Leaf.NotAfter.Sub(now) > Renew {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return made, err
		}
		if sign == nil {
			if sign, err = loadIssuer(dir); err != nil {
				return made, fmt.Errorf("%s is to be made: %w", path, err)
			}
		}
		if err := sign.issue(path, p, now); err != nil {
			return made, fmt.Errorf("certificates: %w", err)
		}
		made = append(made, p.file())
	}
	return made, nil
}

// issuer is the authority with its key.
type issuer struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func makeAuthority(dir string, now time.Time) error {
	t, err := template("cutbank authority", now, now.AddDate(authorityYears, 0, 0))
	if err != nil {
		return err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero, t.KeyUsage = true, true, true, x509.KeyUsageCertSign
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, public, key)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	block, err := keyBlock(key)
	if err != nil {
		return err
	}
	// The key first: an authority without one could never be used.
	if err := write(filepath.Join(dir, authorityKey), block); err != nil {
		return err
	}
	return write(filepath.Join(dir, authorityFile), certBlock(cert))
}

func loadIssuer(dir string) (*issuer, error) {
	path := filepath.Join(dir, authorityKey)
	content, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("the authority's key: %w", err)
	}
	certificate, _, err := loadAuthority(dir)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(content); block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok && key.Public().(ed25519.PublicKey).Equal(certificate.PublicKey) { //nolint:forcetypeassert // by its documentation
				return &issuer{certificate, key}, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is not the key of %s", path, authorityFile)
}

// issue makes a certificate and its key, in one file.
func (i *issuer) issue(path string, p Peer, now time.Time) error {
	t, err := template(string(p), now, now.Add(Validity))
	if err != nil {
		return err
	}
	name, err := url.Parse(string(p))
	if err != nil {
		return err
	}
	t.URIs, t.KeyUsage = []*url.URL{name}, x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if p != Controller {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, i.cert, public, i.key)
	if err != nil {
		return err
	}
	block, err := keyBlock(key)
	if err != nil {
		return err
	}
	return write(path, certBlock(cert), block)
}

func template(name string, now, end time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: end, // other machines' clocks may be a little behind
	}, err
}

func certBlock(der []byte) *pem.Block { return &pem.Block{Type: "CERTIFICATE", Bytes: der} }

func keyBlock(key ed25519.PrivateKey) (*pem.Block, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}, err
}

// write replaces a file at once: a process that starts meanwhile reads the old one or the new one.
func write(path string, blocks ...*pem.Block) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // only still there after an error
	for _, b := range blocks {
		err = errors.Join(err, pem.Encode(f, b))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	return os.Rename(f.Name(), path)
}

func loadAuthority(dir string) (*x509.Certificate, *x509.CertPool, error) {
	path := filepath.Join(dir, authorityFile)
	content, err := readFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates: %w (./launcher certs FILE DIR makes them)", err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, nil, fmt.Errorf("certificates: %s is not a PEM file", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates: %s: %w", path, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return cert, pool, nil
}

func loadPair(path string) (tls.Certificate, error) {
	content, err := readFile(path)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificates: %w", err)
	}
	pair, err := tls.X509KeyPair(content, content)
	if err != nil {
		return pair, fmt.Errorf("certificates: %s: %w", path, err)
	}
	return pair, nil
}
