package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"cutbank/internal/controller"
	"cutbank/internal/identity"
	"cutbank/internal/roster"
)

// tlsAuto keeps the certificates with the bank, in this directory of its data directory.
const tlsAuto, tlsDirectory = "auto", ".tls" // no branch can have that name

// certify makes the certificates that --tls asks for, where they are missing or about to expire, and
// loads the controller's.
func (o *options) certify(out *controller.Output) error {
	if o.TLS == "" {
		return nil
	}
	o.tlsDir = o.TLS
	if o.TLS == tlsAuto {
		o.tlsDir = filepath.Join(o.DataDir, tlsDirectory)
	}
	made, err := identity.Make(o.tlsDir, o.Roster.Names(), time.Now())
	if err != nil {
		return &controller.UsageError{Err: fmt.Errorf("--tls: %w", err)}
	}
	if len(made) > 0 {
		out.Say("made %d certificates in %s", len(made), o.tlsDir)
	}
	return o.LoadCertificates(o.tlsDir)
}

// makeCertificates is `launcher certs FILE DIR`, for banks whose programs are started elsewhere.
func makeCertificates(file, dir string, stdout io.Writer) error {
	r, err := roster.Load(file)
	if err != nil {
		return &controller.UsageError{Err: err}
	}
	made, err := identity.Make(dir, r.Names(), time.Now())
	if err != nil {
		return &controller.UsageError{Err: err}
	}
	if len(made) == 0 {
		_, err = fmt.Fprintf(stdout, "%s: nothing to make; certificates are renewed %d days before they expire\n", dir, int(identity.Renew.Hours()/24))
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: made %s\n", dir, strings.Join(made, ", "))
	return err
}
