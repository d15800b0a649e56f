package lifecycle

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Bounds of what a prober may take.
const (
	maxProbers   = 16
	maxProbe     = 4 << 10 // bytes of a request
	probeTimeout = 2 * time.Second
)

// ServeProbes answers the standard health check of gRPC until ctx ends, for a supervisor that is not
// cutbank's launcher (Kubernetes' probes): the service "" is liveness, "ready" readiness. It tells no
// more than these two bits, to whoever asks. At most 16 connections. Error: the address can't be
// listened on (*PortError).
func ServeProbes(ctx context.Context, address string, h *Health) error {
	l, err := Listen(address)
	if err != nil {
		return fmt.Errorf("health probes: %w", err)
	}
	serveProbes(ctx, l, h)
	return nil
}

func serveProbes(ctx context.Context, l net.Listener, h *Health) {
	s := grpc.NewServer(grpc.UnaryInterceptor(h.intercept), grpc.MaxRecvMsgSize(maxProbe),
		grpc.MaxConcurrentStreams(maxProbers), grpc.ConnectionTimeout(probeTimeout))
	healthpb.RegisterHealthServer(s, health.NewServer())
	context.AfterFunc(ctx, s.Stop)
	go func() { _ = s.Serve(netutil.LimitListener(l, maxProbers)) }() // ends with Stop, which closes l
}
