package lifecycle

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// The probes say what the loop says: alive or stuck, ready or not.
func TestProbes(t *testing.T) {
	h := NewHealth()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveProbes(t.Context(), l, h)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err != nil || answer.GetStatus() != want {
			t.Errorf("%q: %v, %v, want %v", service, answer.GetStatus(), err, want)
		}
	}
	const yes, no = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	const far = int64(time.Hour) // from now: beaten, and not stale however slow this machine is
	h.beat.Store(far)
	check("", yes)
	check(serviceReady, no)
	h.SetReady(true)
	check(serviceReady, yes)
	h.beat.Store(-far)
	check("", no)
	check(serviceReady, no)
}

// counted is a listener that counts connections.
type counted struct {
	net.Listener
	now, most atomic.Int32
}

type countedConn struct {
	net.Conn
	close func()
}

func (c *counted) Accept() (net.Conn, error) {
	nc, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.most.Store(max(c.most.Load(), c.now.Add(1)))
	return countedConn{nc, sync.OnceFunc(func() { c.now.Add(-1) })}, nil
}

func (c countedConn) Close() error {
	c.close()
	return c.Conn.Close()
}

// TestProbers: so many are connected at once; those that come besides wait for their turn.
func TestProbers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{Listener: l}
	serveProbes(t.Context(), c, NewHealth())
	const besides = 4
	answered, release := make(chan error), make(chan struct{})
	for range maxProbers + besides {
		go func() {
			conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for again := err == nil; again; again = err != nil && ctx.Err() == nil { // the server gives up who is silent for 2 s
				_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
			}
			answered <- err
			<-release
			_ = conn.Close()
		}()
	}
	for i := range maxProbers + besides {
		if err := <-answered; err != nil {
			t.Error(err)
		}
		if i == maxProbers-1 {
			close(release)
		}
	}
	if n := c.most.Load(); n != maxProbers {
		t.Errorf("%d were connected at once", n)
	}
}

// The test plays systemd's socket.
func TestNotify(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "")
	heard := make(chan string, 1024)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				close(heard)
				return
			}
			heard <- string(buf[:n])
		}
	}()
	until := func(text string) string {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case m := <-heard:
				if strings.Contains(m, text) {
					return m
				}
			case <-deadline:
				t.Fatalf("never heard %q", text)
			}
		}
	}
	h := NewHealth()
	h.beat.Store(int64(time.Hour))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { Notify(ctx, h); close(done) }()
	until("READY=1")
	until("WATCHDOG=1")
	h.SetReady(true)
	if m := until("all links are up"); !strings.Contains(m, "WATCHDOG=1") {
		t.Errorf("ready, but no watchdog: %q", m)
	}
	h.beat.Store(-int64(time.Hour)) // the loop is stuck
	if m := until("does not beat"); strings.Contains(m, "WATCHDOG=1") {
		t.Errorf("a stuck loop feeds the watchdog: %q", m)
	}
	stop()
	until("STOPPING=1")
	<-done

	t.Setenv("NOTIFY_SOCKET", "")
	Notify(t.Context(), h) // returns: nobody listens
}
