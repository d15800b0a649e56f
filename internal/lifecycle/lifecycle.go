// Package lifecycle is what a launcher and the processes that it supervises share of go-plugin: the
// handshake and the health check. It knows nothing of banks, and nothing but lifecycle passes here.
//
// A program that finds the cookie in its environment was started by a launcher: it serves gRPC
// health over a private Unix socket, beside its normal work. Two services answer:
//
//	"plugin"  SERVING while the program's loop is alive (Health.Beat)
//	"ready"   SERVING while the program says that it is ready (Health.SetReady)
//
// Invariant: the answer is the loop's, not the server's: a process that is alive but stuck is not
// SERVING.
package lifecycle

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// serviceReady is the name of the service that is readiness; any other is liveness.
const serviceReady = "ready"

// Bounds of what still counts as alive.
const (
	StaleAfter = 500 * time.Millisecond // since the loop's last beat
	SyncLimit  = 10 * time.Second       // of one commit to the disk
)

const (
	cookieKey   = "CUTBANK_LAUNCHER"
	cookieValue = "cutbank-lifecycle-1"
	pluginName  = "lifecycle"
)

// Handshake of launcher and child.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: cookieKey, MagicCookieValue: cookieValue}
}

// Supervised tells whether a launcher has started this process.
func Supervised() bool { return os.Getenv(cookieKey) == cookieValue }

// Health is how the process is. The zero value has never beaten. Safe for concurrent use.
type Health struct {
	beat    atomic.Int64 // since epoch, nanoseconds of the monotonic clock
	syncing atomic.Int64 // since when a commit is under way; 0: none
	started atomic.Bool  // the loop has beaten
	ready   atomic.Bool
	waits   atomic.Pointer[string] // what for, while it is not ready
	epoch   time.Time
}

// NewHealth begins with a beat.
func NewHealth() *Health {
	h := &Health{epoch: time.Now()}
	h.beat.Store(h.now())
	return h
}

func (h *Health) now() int64 { return int64(time.Since(h.epoch)) + 1 }

// Beat says that the loop is alive. At least every StaleAfter.
func (h *Health) Beat() {
	h.beat.Store(h.now())
	if !h.started.Load() {
		h.started.Store(true)
	}
}

// Syncing says that a commit to the disk has begun or ended: it may take SyncLimit.
func (h *Health) Syncing(busy bool) {
	if busy {
		h.syncing.Store(h.now())
	} else {
		h.syncing.Store(0)
	}
}

// SetReady says whether the program can do all its work.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Waits says in a few words what a program that is not ready waits for; a launcher shows it.
func (h *Health) Waits(what string) { h.waits.Store(&what) }

// Alive is nil, or why the process counts as stuck.
func (h *Health) Alive() error { return h.aliveAt(h.now()) }

func (h *Health) aliveAt(now int64) error {
	if since := h.syncing.Load(); since != 0 && now-since > int64(SyncLimit) {
		return errors.New("a commit to the disk does not end")
	}
	if now-h.beat.Load() > int64(StaleAfter) {
		return errors.New("the loop does not beat")
	}
	return nil
}

// Serve answers the launcher until the process ends. From here on nothing may be printed: go-plugin
// owns stdout and stderr.
func Serve(h *Health) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: Handshake(),
		Plugins:         map[string]plugin.Plugin{pluginName: &child{}},
		Logger:          hclog.NewNullLogger(),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.UnaryInterceptor(h.interceptLauncher))...)
		},
	})
}

// Metadata of the answer to a launcher, which tell it all at once.
const (
	metaAlive = "cutbank-alive"
	metaWaits = "cutbank-waits"
)

// interceptLauncher says besides what is waited for. A program whose loop has not run yet is starting,
// however long its recovery takes: not alive, not stuck.
func (h *Health) interceptLauncher(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if _, ok := req.(*healthpb.HealthCheckRequest); ok {
		h.settle(ctx)
		waits, alive := "", h.Alive() == nil && h.started.Load()
		if w := h.waits.Load(); w != nil && !h.ready.Load() {
			waits = *w
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs(metaAlive, strconv.FormatBool(alive), metaWaits, waits))
		if !alive {
			return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
		}
	}
	return h.intercept(ctx, req, info, next)
}

// settle looks again for a moment when the loop seems stuck. A process that was itself stopped or starved
// answers one time in three before its loop had the time to beat.
func (h *Health) settle(ctx context.Context) {
	for range 10 { // well within a check of 250 ms, and the loop has its turn in each
		if h.Alive() == nil || !h.started.Load() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// intercept answers the health check itself: the one that go-plugin brings is always SERVING.
func (h *Health) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	check, ok := req.(*healthpb.HealthCheckRequest)
	if !ok {
		return next(ctx, req)
	}
	status := healthpb.HealthCheckResponse_SERVING
	if h.Alive() != nil || check.GetService() == serviceReady && !h.ready.Load() {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	return &healthpb.HealthCheckResponse{Status: status}, nil
}

// child is the plugin without a service of its own.
type child struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer registers nothing: health is there already.
func (*child) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

// GRPCClient gives the launcher the connection, and the context that ends with the process.
func (*child) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &Remote{health: healthpb.NewHealthClient(conn)}, nil
}

// Plugins is the launcher's side of Serve.
func Plugins() map[string]plugin.Plugin { return map[string]plugin.Plugin{pluginName: &child{}} }

// Remote is a running child, as its launcher sees it.
type Remote struct{ health healthpb.HealthClient }

// Connect does the handshake with the process of a client.
func Connect(client *plugin.Client) (*Remote, error) {
	rpc, err := client.Client()
	if err != nil {
		return nil, err
	}
	raw, err := rpc.Dispense(pluginName)
	if err != nil {
		return nil, err
	}
	remote, ok := raw.(*Remote)
	if !ok {
		return nil, errors.New("lifecycle: not a child of this program")
	}
	return remote, nil
}

// Answer of a program to a health check.
type Answer struct {
	Alive, Ready bool
	Waits        string // what for, when it is not ready; bounded
}

const maxWaits = 512

// Check asks within the context's time. No answer is the zero Answer.
func (r *Remote) Check(ctx context.Context) Answer {
	var header metadata.MD
	answer, err := r.health.Check(ctx, &healthpb.HealthCheckRequest{Service: serviceReady}, grpc.Header(&header))
	if err != nil {
		return Answer{}
	}
	first := func(key string) string { return strings.Join(header.Get(key), "") }
	waits := first(metaWaits)
	return Answer{
		Alive: first(metaAlive) == "true", Ready: answer.GetStatus() == healthpb.HealthCheckResponse_SERVING,
		Waits: waits[:min(len(waits), maxWaits)],
	}
}
