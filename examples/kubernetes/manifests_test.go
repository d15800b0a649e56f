// Package kubernetes_test reads the manifests strictly as the types of Kubernetes' API, holds them
// against each other and against the programs, and builds the image. A module of its own: the programs
// need none of this.
package kubernetes_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"

	"cutbank/internal/roster"
)

// bank is what is in bank.yaml.
type bank struct {
	config     *corev1.ConfigMap
	service    *corev1.Service
	branches   *appsv1.StatefulSet
	claim      *corev1.PersistentVolumeClaim
	controller *appsv1.Deployment
	policy     *networkingv1.NetworkPolicy
}

func readBank(t *testing.T) bank {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	content, err := os.ReadFile("bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var b bank
	for i, document := range bytes.Split(content, []byte("\n---\n")) {
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("document %d: %v", i+1, err)
		}
		switch o := object.(type) {
		case *corev1.ConfigMap:
			b.config = o
		case *corev1.Service:
			b.service = o
		case *appsv1.StatefulSet:
			b.branches = o
		case *corev1.PersistentVolumeClaim:
			b.claim = o
		case *appsv1.Deployment:
			b.controller = o
		case *networkingv1.NetworkPolicy:
			b.policy = o
		default:
			t.Errorf("document %d: a %T that this test does not know", i+1, o)
		}
	}
	if b.config == nil || b.service == nil || b.branches == nil || b.claim == nil || b.controller == nil || b.policy == nil {
		t.Fatal("an object is missing")
	}
	return b
}

func (b bank) roster(t *testing.T) roster.Roster {
	t.Helper()
	r, err := roster.Parse("branches.txt", []byte(b.config.Data["branches.txt"]))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b bank) branch() corev1.Container { return b.branches.Spec.Template.Spec.Containers[0] }

// flag is the value of --name=value among the arguments.
func flag(t *testing.T, c corev1.Container, name string) string {
	t.Helper()
	for _, a := range c.Args {
		if value, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return value
		}
	}
	t.Errorf("%s has no --%s", c.Name, name)
	return ""
}

// The roster names the pods, at the addresses that the headless service gives them before they are ready.
func TestRosterIsThePods(t *testing.T) {
	b := readBank(t)
	set, r := b.branches, b.roster(t)
	if int(*set.Spec.Replicas) != len(r.Branches) {
		t.Errorf("%d replicas, %d branches in the roster", *set.Spec.Replicas, len(r.Branches))
	}
	port := b.branch().Args[1]
	for i, entry := range r.Branches {
		pod := fmt.Sprintf("%s-%d", set.Name, i)
		if entry.Name != pod || entry.Host != pod+"."+set.Spec.ServiceName || strconv.Itoa(int(entry.Port)) != port {
			t.Errorf("line %d is %s %s, the pod %s.%s:%s", i+1, entry.Name, entry.Addr(), pod, set.Spec.ServiceName, port)
		}
	}
	s := b.service
	if s.Name != set.Spec.ServiceName || s.Spec.ClusterIP != corev1.ClusterIPNone || !s.Spec.PublishNotReadyAddresses {
		t.Error("the service is not the headless one of the set that publishes addresses that are not ready")
	}
	if s.Spec.Selector["app"] != set.Spec.Template.Labels["app"] || set.Spec.Selector.MatchLabels["app"] != set.Spec.Template.Labels["app"] {
		t.Error("selectors and labels differ")
	}
	if set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
		t.Error("the pods would be started one after the other, and the first waits for the others")
	}
	if strconv.Itoa(int(s.Spec.Ports[0].Port)) != port || strconv.Itoa(int(b.branch().Ports[0].ContainerPort)) != port {
		t.Errorf("ports of service and container are not the branch's %s", port)
	}
}

func TestProbesAskTheBranch(t *testing.T) {
	c := readBank(t).branch()
	_, port, _ := strings.Cut(flag(t, c, "health"), ":")
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if probe == nil || probe.GRPC == nil || strconv.Itoa(int(probe.GRPC.Port)) != port {
			t.Errorf("the %s probe does not ask port %s", name, port)
			continue
		}
		service := ""
		if probe.GRPC.Service != nil {
			service = *probe.GRPC.Service
		}
		if want := map[string]string{"readiness": "ready"}[name]; service != want {
			t.Errorf("the %s probe asks for %q, not %q", name, service, want)
		}
	}
	if strconv.Itoa(int(c.Ports[1].ContainerPort)) != port {
		t.Errorf("the container does not name port %s", port)
	}
}

// Every flag that names a place is mounted, and money is on a volume of the branch's own.
func TestMounts(t *testing.T) {
	b := readBank(t)
	data := flag(t, b.branch(), "data-dir")
	claims := b.branches.Spec.VolumeClaimTemplates
	if len(claims) != 1 || mounted(b.branch(), data) != claims[0].Name {
		t.Errorf("%s is not on the volume of the branch", data)
	}
	c := b.controller.Spec.Template.Spec
	if name := mounted(c.Containers[0], flag(t, c.Containers[0], "data-dir")); volume(c, name).PersistentVolumeClaim == nil ||
		volume(c, name).PersistentVolumeClaim.ClaimName != b.claim.Name {
		t.Error("the controller's directory is not on its claim")
	}
	config := volume(c, mounted(c.Containers[0], c.Containers[0].Args[1]))
	if config.ConfigMap == nil || config.ConfigMap.Name != b.config.Name || !strings.HasSuffix(c.Containers[0].Args[1], "/branches.txt") {
		t.Error("the controller does not read the roster")
	}
	checkCertificates(t, b)
}

// checkCertificates: each pod sees the authority and its own certificate, and others can't read them.
func checkCertificates(t *testing.T, b bank) {
	t.Helper()
	files := func(p corev1.PodSpec) map[string]string {
		name := mounted(p.Containers[0], flag(t, p.Containers[0], "tls"))
		s := volume(p, name).Secret
		if s == nil || s.SecretName != "bank-tls" || s.DefaultMode == nil || *s.DefaultMode&0o7 != 0 {
			t.Fatalf("the certificates of %s are not mounted, or for everybody: %+v", p.Containers[0].Name, s)
		}
		at := make(map[string]string)
		for _, item := range s.Items {
			if path.Base(item.Path) != item.Key {
				t.Errorf("%s is mounted as %s", item.Key, item.Path)
			}
			at[item.Path] = item.Key
		}
		return at
	}
	want := make(map[string]string)
	for _, entry := range b.roster(t).Branches {
		for _, file := range []string{"ca.pem", "branch-" + entry.Name + ".pem"} {
			want[entry.Name+"/"+file] = file
		}
	}
	if got := files(b.branches.Spec.Template.Spec); !maps.Equal(got, want) {
		t.Errorf("the branches' certificates are %v, not %v", got, want)
	}
	for _, m := range b.branch().VolumeMounts {
		if m.Name == "tls" && m.SubPathExpr != "$(POD_NAME)" {
			t.Error("a pod sees the certificates of others")
		}
	}
	want = map[string]string{"ca.pem": "ca.pem", "controller.pem": "controller.pem"}
	if got := files(b.controller.Spec.Template.Spec); !maps.Equal(got, want) {
		t.Errorf("the controller's certificates are %v, not %v", got, want)
	}
}

// mounted is the volume that a path of the container is on.
func mounted(c corev1.Container, path string) string {
	for _, m := range c.VolumeMounts {
		if path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/") {
			return m.Name
		}
	}
	return ""
}

func volume(p corev1.PodSpec, name string) corev1.Volume {
	for _, v := range p.Volumes {
		if v.Name == name {
			return v
		}
	}
	return corev1.Volume{}
}

// Nobody is root, nothing but the volumes can be written, no capability is left.
func TestHardened(t *testing.T) {
	b := readBank(t)
	for _, p := range []corev1.PodSpec{b.branches.Spec.Template.Spec, b.controller.Spec.Template.Spec} {
		s, c := p.SecurityContext, p.Containers[0]
		if s == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
			p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken || *s.FSGroup != *s.RunAsUser {
			t.Errorf("pod of %s: %+v", c.Name, s)
		}
		k := c.SecurityContext
		if k == nil || *k.AllowPrivilegeEscalation || !*k.ReadOnlyRootFilesystem || !slices.Equal(k.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("container %s: %+v", c.Name, k)
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s may take all memory", c.Name)
		}
	}
}

// The policy lets in the bank's own pods to the bank's port, and the probes.
func TestPolicy(t *testing.T) {
	b := readBank(t)
	p := b.policy.Spec
	if p.PodSelector.MatchLabels["app"] != b.branches.Spec.Template.Labels["app"] || len(p.Ingress) != 2 {
		t.Fatal("the policy is not about the branches")
	}
	var from []string
	for _, peer := range p.Ingress[0].From {
		from = append(from, peer.PodSelector.MatchLabels["app"])
	}
	want := []string{b.branches.Spec.Template.Labels["app"], b.controller.Spec.Template.Labels["app"]}
	if !slices.Equal(from, want) || *p.Ingress[0].Ports[0].Port != intstr.FromInt32(b.branch().Ports[0].ContainerPort) {
		t.Errorf("the port of the bank is open to %v, not %v", from, want)
	}
	if *p.Ingress[1].Ports[0].Port != intstr.FromInt32(b.branch().Ports[1].ContainerPort) {
		t.Error("the probes can't pass")
	}
}
