package kubernetes_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
)

// TestManifestsRun runs the bank of the manifests as processes: their commands, arguments and mounts, with
// this machine's addresses and folders in place of the pods'. The probes are asked as the kubelet does.
func TestManifestsRun(t *testing.T) {
	b := readBank(t)
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-C", "../..", "-buildvcs=false", "-o", dir+"/", "./cmd/branch", "./cmd/controller", "./cmd/launcher").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := b.roster(t)
	ports := freePorts(t, 2*len(r.Branches))
	var roster strings.Builder
	for i, entry := range r.Branches {
		fmt.Fprintf(&roster, "%s 127.0.0.1 %s\n", entry.Name, ports[2*i])
	}
	write(t, filepath.Join(dir, "config", "branches.txt"), roster.String())
	certs := exec.Command(filepath.Join(dir, "launcher"), "certs", filepath.Join(dir, "config", "branches.txt"), filepath.Join(dir, "certs"))
	if out, err := certs.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, entry := range r.Branches {
		pod := filepath.Join(dir, entry.Name)
		mountSecret(t, filepath.Join(dir, "certs"), b.branches.Spec.Template.Spec, entry.Name+"/", filepath.Join(pod, "tls"))
		start(t, b.branch(), dir, pod, []string{
			"$(POD_NAME)", entry.Name, "$(POD_IP)", "127.0.0.1", "9001", ports[2*i], "9080", ports[2*i+1],
		})
	}
	probe := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for i := range r.Branches {
			wait(t, "127.0.0.1:"+ports[2*i+1], service, want)
		}
	}
	probe("", healthpb.HealthCheckResponse_SERVING)
	probe("ready", healthpb.HealthCheckResponse_NOT_SERVING) // it belongs to no bank yet
	spec := b.controller.Spec.Template.Spec
	pod := filepath.Join(dir, "controller-pod")
	mountSecret(t, filepath.Join(dir, "certs"), spec, "", filepath.Join(pod, "tls"))
	c := spec.Containers[0]
	c.Args = append(c.Args, "--snapshots", "2")
	stdout := start(t, c, dir, pod, []string{"/config", filepath.Join(dir, "config")})
	if n := strings.Count(stdout(), `"status":"consistent"`); n < 2 {
		t.Errorf("%d consistent snapshots: %s", n, stdout())
	}
	probe("ready", healthpb.HealthCheckResponse_SERVING)
}

// start runs a container's command; /data and /tls are folders of the pod. The result waits for its end and
// is its output.
func start(t *testing.T, c corev1.Container, bin, pod string, replace []string) (stdout func() string) {
	t.Helper()
	replace = append(replace, "/data", filepath.Join(pod, "data"), "/tls", filepath.Join(pod, "tls"))
	var args []string
	for _, a := range c.Args {
		args = append(args, strings.NewReplacer(replace...).Replace(a))
	}
	cmd := exec.Command(filepath.Join(bin, c.Command[0]), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if <-ended; t.Failed() {
			t.Logf("%v\n%s", args, &errs)
		}
	})
	return func() string {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
			ended <- nil
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s does not end", c.Name)
		}
		return out.String()
	}
}

// mountSecret makes of the certificates what the pod sees: the items below its sub-path.
func mountSecret(t *testing.T, certs string, p corev1.PodSpec, below, to string) {
	t.Helper()
	for _, item := range volume(p, "tls").Secret.Items {
		if file, ok := strings.CutPrefix(item.Path, below); ok {
			content, err := os.ReadFile(filepath.Join(certs, item.Key))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(to, file), string(content))
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

// freePorts are n of them that nobody takes meanwhile: below those that the system gives to dialling ends.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for port := 5000 + os.Getpid()%900; len(ports) < n; port++ {
		if port == 32768 {
			t.Fatal("no port is free")
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			ports = append(ports, strconv.Itoa(port))
		}
	}
	return ports
}

// wait asks until the probe says so.
func wait(t *testing.T, address, service string, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err == nil && answer.GetStatus() == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the probe %q of %s says %v, %v, not %v", service, address, answer, err, want)
		}
	}
}
