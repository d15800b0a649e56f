package branch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"cutbank/internal/branch"
	"cutbank/internal/identity"
	"cutbank/internal/link"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// lines is a log that tests wait for.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until the log has a text, and empties it.
func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(l.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never says %q:\n%s", text, l)
		}
	}
	l.mu.Lock()
	l.text.Reset()
	l.mu.Unlock()
}

// says waits a second for a text in the log, and empties it then.
func (l *lines) says(text string) bool {
	for range 1000 {
		if strings.Contains(l.String(), text) {
			l.mu.Lock()
			l.text.Reset()
			l.mu.Unlock()
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// ask sends messages on a connection of their own, and returns the first answer; nil: it was closed.
func ask(dial func() (net.Conn, error), messages ...*bankpb.BranchMessage) *bankpb.BranchMessage {
	nc, err := dial()
	if err != nil {
		return nil
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	var b []byte
	for _, m := range messages {
		b = wire.Append(b, m)
	}
	_, _ = nc.Write(b) // may be refused in the handshake already
	m, _ := wire.NewReader(nc, wire.MaxFrame).NextMessage()
	return m
}

// eventually tries until it works: of a machine that stands still for 2 s a branch gives up the handshake.
func eventually(t *testing.T, try func() (got any, ok bool)) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		got, ok := try()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("at last %v", got)
		}
	}
}

// startBranch runs a branch until the end of the test, with a log that is to be waited for.
func startBranch(t *testing.T, name string, change func(*branch.Config)) (address string, log *lines) {
	t.Helper()
	log = &lines{}
	cfg := branch.Config{
		Name: name, Interval: time.Hour,
		Logger: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn}),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if cfg.Listener == nil {
		if cfg.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	b, err := branch.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return cfg.Listener.Addr().String(), log
}

// certificates makes those of branch1 to branch3: good ones, expired ones of the same authority, and
// another authority's.
func certificates(t *testing.T) (good, expired, foreign string) {
	t.Helper()
	names := []string{"branch1", "branch2", "branch3"}
	good, expired, foreign = t.TempDir(), filepath.Join(t.TempDir(), "tls"), t.TempDir()
	for dir, age := range map[string]time.Duration{expired: 3 * 365 * 24 * time.Hour, foreign: 0} {
		if _, err := identity.Make(dir, names, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"ca.pem", "ca.key"} {
		content, err := os.ReadFile(filepath.Join(expired, f))
		if err == nil {
			err = os.WriteFile(filepath.Join(good, f), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := identity.Make(good, names, time.Now()); err != nil {
		t.Fatal(err)
	}
	return good, expired, foreign
}

func load(t *testing.T, dir string, p identity.Peer) *identity.Certificates {
	t.Helper()
	c, err := identity.Load(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hello(from, to string) *bankpb.BranchMessage {
	return &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Hello{Hello: &bankpb.Hello{
		Version: link.Version, BankId: bankID("branch1", "branch2", "branch3"), From: from, To: to, Nonce: make([]byte, 16),
	}}}
}

// TestCertificates: who may say what to a branch, by its certificate, and the reason in the log.
func TestCertificates(t *testing.T) {
	good, expired, foreign := certificates(t)
	address, log := startBranch(t, "branch1", func(c *branch.Config) { c.Certificates = load(t, good, identity.Branch("branch1")) })
	var all []*bankpb.InitBranch_Branch
	for _, name := range []string{"branch1", "branch2", "branch3"} {
		all = append(all, &bankpb.InitBranch_Branch{Name: name, Ip: "127.0.0.1", Port: 1})
	}
	opening := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{Balance: 1000, AllBranches: all}}}
	status := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}}
	attach := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_Attach{Attach: &bankpb.Attach{Version: link.Version, Nonce: make([]byte, 16)}}}

	controller := func() (net.Conn, error) {
		return load(t, good, identity.Controller).Dial(t.Context(), address, "branch1")
	}
	eventually(t, func() (any, bool) {
		ask(controller, opening, status)
		got := ask(controller, status).GetStatus_()
		return got, got.GetBalance() == 1000
	})
	for name, test := range map[string]struct {
		dir, file string // of the certificate; none
		plain     bool
		version   uint16
		message   *bankpb.BranchMessage
		answer    string // the kind of answer; none: the connection is closed
		reason    string // in the log; none: it is accepted
	}{
		"valid branch":             {dir: good, file: "branch-branch3.pem", message: hello("branch3", "branch1"), answer: "hello"},
		"valid controller":         {dir: good, file: "controller.pem", message: status, answer: "status"},
		"valid controller attach":  {dir: good, file: "controller.pem", message: attach, answer: "challenge"},
		"none":                     {message: status, reason: "client didn't provide a certificate"},
		"plaintext client":         {plain: true, message: attach, answer: "error", reason: "this branch speaks TLS only"},
		"shorter than a record":    {plain: true, message: status, reason: "no TLS handshake within 2s"},
		"plaintext opening":        {plain: true, message: opening, answer: "error", reason: "this branch speaks TLS only"},
		"plaintext branch":         {plain: true, message: hello("branch3", "branch1"), answer: "error", reason: "this branch speaks TLS only"},
		"other CA's branch":        {dir: foreign, file: "branch-branch3.pem", message: hello("branch3", "branch1"), reason: "unknown authority"},
		"other CA's controller":    {dir: foreign, file: "controller.pem", message: status, reason: "unknown authority"},
		"expired branch":           {dir: expired, file: "branch-branch3.pem", message: hello("branch3", "branch1"), reason: "expired"},
		"expired controller":       {dir: expired, file: "controller.pem", message: status, reason: "expired"},
		"TLS 1.2":                  {dir: good, file: "controller.pem", version: tls.VersionTLS12, message: status, reason: "unsupported versions"},
		"wrong name":               {dir: good, file: "branch-branch2.pem", message: hello("branch3", "branch1"), answer: "error", reason: `the certificate is "cutbank:branch/branch2", the hello of "branch3"`},
		"branch as controller":     {dir: good, file: "branch-branch3.pem", message: status, answer: "error", reason: `the certificate is "cutbank:branch/branch3", and get_status is for a controller`},
		"branch attaches":          {dir: good, file: "branch-branch3.pem", message: attach, answer: "error", reason: "and attach is for a controller"},
		"branch opens":             {dir: good, file: "branch-branch3.pem", message: opening, answer: "error", reason: "and init_branch is for a controller"},
		"controller as branch":     {dir: good, file: "controller.pem", message: hello("branch3", "branch1"), answer: "error", reason: `the certificate is "cutbank:controller", the hello of "branch3"`},
		"its own name":             {dir: good, file: "branch-branch1.pem", message: hello("branch1", "branch1"), answer: "error", reason: "no peer"},
		"forged lines and escapes": {dir: good, file: "branch-branch3.pem", message: hello("\x1b[2J\n2026-01-01 [ERROR] forged", "branch1"), answer: "error", reason: `\\x1b[2J\\n2026-01-01 [ERROR] forged`},
	} {
		t.Run(name, func(t *testing.T) {
			dial := func() (net.Conn, error) { return net.Dial("tcp", address) }
			if !test.plain {
				cfg := &tls.Config{InsecureSkipVerify: true, MaxVersion: test.version}
				if test.file != "" {
					path := filepath.Join(test.dir, test.file)
					pair, err := tls.LoadX509KeyPair(path, path)
					if err != nil {
						t.Fatal(err)
					}
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
				}
				dial = func() (net.Conn, error) {
					nc, err := net.Dial("tcp", address)
					return tls.Client(nc, cfg), err
				}
			}
			eventually(t, func() (any, bool) {
				got := ""
				if m := ask(dial, test.message); m != nil {
					r := m.ProtoReflect()
					got = string(r.WhichOneof(r.Descriptor().Oneofs().Get(0)).Name())
				}
				return got, got == test.answer && log.says(strings.ReplaceAll(test.reason, `"`, `\"`))
			})
		})
	}
	eventually(t, func() (any, bool) {
		got := ask(controller, status).GetStatus_()
		return got, got.GetBalance() == 1000 && got.GetSnapshotsInProgress() == 0
	})
	if strings.Contains(log.String(), "\x1b") {
		t.Errorf("escapes in the log: %q", log)
	}
}

// TestDialledCertificates: a branch links up with who has the certificate of the one that it dials, and
// logs why it does not with others.
func TestDialledCertificates(t *testing.T) {
	good, _, foreign := certificates(t)
	for name, test := range map[string]struct{ dir, file, reason string }{
		"valid":      {good, "branch-branch1.pem", ""},
		"other name": {good, "branch-branch3.pem", `"cutbank:branch/branch3" answered where branch1 was dialled`},
		"other CA":   {foreign, "branch-branch1.pem", "unknown authority"},
		"controller": {good, "controller.pem", "incompatible key usage"},
		"plaintext":  {"", "", "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			hellos := make(chan string, 100)
			var serving sync.WaitGroup
			t.Cleanup(func() { _ = l.Close(); serving.Wait() })
			serving.Go(func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					if test.file == "" {
						_, _ = nc.Write([]byte("\x05hello"))
					} else if pair, err := tls.LoadX509KeyPair(filepath.Join(test.dir, test.file), filepath.Join(test.dir, test.file)); err == nil {
						conn := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
						if m, err := wire.NewReader(conn, wire.MaxFrame).NextMessage(); err == nil {
							hellos <- m.GetHello().GetFrom()
						}
					}
					_ = nc.Close()
				}
			})
			address, log := startBranch(t, "branch2", func(c *branch.Config) { c.Certificates = load(t, good, identity.Branch("branch2")) })
			controller := func() (net.Conn, error) {
				return load(t, good, identity.Controller).Dial(t.Context(), address, "branch2")
			}
			port := uint32(l.Addr().(*net.TCPAddr).Port)
			opening := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_InitBranch{InitBranch: &bankpb.InitBranch{
				Balance: 1000, AllBranches: []*bankpb.InitBranch_Branch{{Name: "branch1", Ip: "127.0.0.1", Port: port}, {Name: "branch2", Ip: "127.0.0.1", Port: 1}},
			}}}
			status := &bankpb.BranchMessage{BranchMessage: &bankpb.BranchMessage_GetStatus{GetStatus: &bankpb.GetStatus{}}}
			eventually(t, func() (any, bool) {
				ask(controller, opening, status)
				got := ask(controller, status).GetStatus_()
				return got, got.GetBalance() == 1000
			})
			if test.reason == "" {
				if from := <-hellos; from != "branch2" {
					t.Errorf("a hello of %q", from)
				}
				return
			}
			log.await(t, strings.ReplaceAll(test.reason, `"`, `\"`))
			if len(hellos) > 0 {
				t.Error("the branch said hello to it")
			}
		})
	}
}

// bankID is that of a bank that a plain client opened.
func bankID(names ...string) []byte {
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%q\n", name)
	}
	return h.Sum(nil)[:16]
}
