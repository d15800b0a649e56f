package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cutbank/internal/identity"
)

const year = 365 * 24 * time.Hour

func made(t *testing.T, dir string, now time.Time, names ...string) []string {
	t.Helper()
	files, err := identity.Make(dir, names, now)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func loaded(t *testing.T, dir string, p identity.Peer) *identity.Certificates {
	t.Helper()
	c, err := identity.Load(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMake: what is missing or about to expire is made, private, and nothing else is touched.
func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	if got := made(t, dir, now, "a"); len(got) != 3 {
		t.Errorf("made %v", got)
	}
	if got := made(t, dir, now, "a", "b"); len(got) != 1 || got[0] != "branch-b.pem" {
		t.Errorf("made %v", got)
	}
	if got := made(t, dir, now.Add(identity.Validity-identity.Renew-time.Hour), "a", "b"); got != nil {
		t.Errorf("made %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if got := made(t, dir, now, "a", "b"); got != nil {
		t.Errorf("made %v", got)
	}
	if _, err := identity.Make(dir, []string{"c"}, now); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "the authority's key") {
		t.Errorf("without the authority's key: %v", err)
	}
}

// TestLoad: files that can't be used are named, with what to do.
func TestLoad(t *testing.T) {
	dir, old, other := t.TempDir(), t.TempDir(), t.TempDir()
	made(t, dir, time.Now(), "a", "b")
	made(t, old, time.Now().Add(-3*year), "a")
	made(t, other, time.Now(), "a")
	file := filepath.Join(dir, "branch-a.pem")
	replace := func(from, name string) func() error {
		return func() error {
			content, err := os.ReadFile(filepath.Join(from, name))
			return errors.Join(err, os.WriteFile(file, content, 0o600))
		}
	}
	for name, test := range map[string]struct {
		change func() error
		want   string
	}{
		"missing":    {func() error { return os.Remove(file) }, "no such file"},
		"of another": {replace(dir, "branch-b.pem"), `is not cutbank:branch/a's certificate ("cutbank:branch/b"`},
		"other bank": {replace(other, "branch-a.pem"), "unknown authority"},
		"expired":    {replace(old, "branch-a.pem"), "./launcher certs FILE " + dir + " makes a new one"},
		"garbage":    {replace(dir, "ca.pem"), "branch-a.pem"},
		"readable":   {func() error { return os.Chmod(file, 0o644) }, "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(file)
			made(t, dir, time.Now(), "a", "b")
			if err := test.change(); err != nil {
				t.Fatal(err)
			}
			if _, err := identity.Load(dir, identity.Branch("a")); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	if _, err := identity.Load(t.TempDir(), identity.Controller); err == nil || !strings.Contains(err.Error(), "./launcher certs") {
		t.Errorf("an empty directory: %v", err)
	}
}

// TestDial: who dials a branch finds out when another answers, and why.
func TestDial(t *testing.T) {
	dir, old, other := t.TempDir(), t.TempDir(), t.TempDir()
	made(t, old, time.Now().Add(-3*year), "a", "b")
	made(t, other, time.Now(), "a", "b")
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil { // one authority, two ages
		t.Fatal(err)
	}
	_ = os.Chmod(dir, 0o700)
	for _, f := range []string{"ca.pem", "ca.key", "controller.pem", "branch-a.pem", "branch-b.pem"} {
		_ = os.Chmod(filepath.Join(dir, f), 0o600)
	}
	made(t, dir, time.Now(), "a", "b")
	for name, test := range map[string]struct {
		dir, file string
		version   uint16
		want      string
	}{
		"valid":      {dir: dir, file: "branch-a.pem"},
		"other name": {dir: dir, file: "branch-b.pem", want: `"cutbank:branch/b" answered where a was dialled`},
		"controller": {dir: dir, file: "controller.pem", want: "incompatible key usage"},
		"other CA":   {dir: other, file: "branch-a.pem", want: "unknown authority"},
		"expired":    {dir: old, file: "branch-a.pem", want: "expired"},
		"TLS 1.2":    {dir: dir, file: "branch-a.pem", version: tls.VersionTLS12, want: "protocol version"},
		"plaintext":  {want: "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			defer serving.Wait()
			defer func() { _ = l.Close() }()
			serving.Go(func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer func() { _ = nc.Close() }()
				if test.file == "" {
					_, _ = nc.Write([]byte("\x05hello"))
					return
				}
				path := filepath.Join(test.dir, test.file)
				pair, err := tls.LoadX509KeyPair(path, path)
				if err != nil {
					t.Error(err)
					return
				}
				conn := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: test.version})
				_ = conn.Handshake()
				_, _ = conn.Read(make([]byte, 1))
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			nc, err := loaded(t, dir, identity.Controller).Dial(ctx, l.Addr().String(), "a")
			if err == nil {
				_ = nc.Close()
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestPlaintext: only loopback needs no flag, and the message says what plaintext means.
func TestPlaintext(t *testing.T) {
	for host, fine := range map[string]bool{
		"127.0.0.1": true, "127.7.7.7": true, "::1": true, "localhost": true,
		"0.0.0.0": false, "::": false, "": false, "10.0.0.1": false, "192.0.2.1": false, "no-such-host.invalid": false,
	} {
		err := identity.CheckPlaintext(host, "branches.txt:1: "+host, false)
		if (err == nil) != fine || err != nil && (!strings.Contains(err.Error(), "branches.txt:1") || !strings.Contains(err.Error(), "--insecure")) {
			t.Errorf("%q: %v", host, err)
		}
		if err := identity.CheckPlaintext(host, host, true); err != nil {
			t.Errorf("%q wanted: %v", host, err)
		}
	}
}
