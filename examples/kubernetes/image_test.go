package kubernetes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The image is built without asking any registry, holds two static programs and nothing else, and they
// run in it as a user that is not root.
func TestImage(t *testing.T) {
	buildah, err := exec.LookPath("buildah")
	switch missing := err != nil || os.Getuid() != 0; {
	case missing && os.Getenv("CI") == "true":
		t.Fatal("CI runs this as root, with buildah")
	case missing:
		t.Skip("needs root and buildah")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "BUILDAH_ISOLATION=chroot")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	storage := []string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}
	image := func(args ...string) string { t.Helper(); return run(buildah, append(storage, args...)...) }

	run("go", "build", "-C", "../..", "-buildvcs=false", "-o", filepath.Join(dir, "bin")+"/", "./cmd/branch", "./cmd/controller")
	image("build", "--network=none", "--pull=never", "-f", "Containerfile", "-t", "cutbank", dir)
	container := image("from", "--pull-never", "localhost/cutbank")
	root := image("mount", container)
	defer image("rm", container) // unmounts it
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() {
			files = append(files, e.Name())
		}
	}
	if strings.Join(files, " ") != "branch controller" {
		t.Errorf("in the image: %v", files)
	}
	for _, program := range []string{"branch", "controller"} {
		if out := image("run", container, "--", "/"+program, "--version"); !strings.Contains(out, program) {
			t.Errorf("%s says %q", program, out)
		}
	}
	if user := image("inspect", "--type=image", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", "localhost/cutbank"); user != "65532:65532 [/branch]" {
		t.Errorf("user and entry point: %s", user)
	}
}
