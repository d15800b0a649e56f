package lifecycle_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"cutbank/internal/lifecycle"
)

func TestListenNamesTheHolder(t *testing.T) {
	l, err := lifecycle.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = lifecycle.Listen(l.Addr().String())
	var port *lifecycle.PortError
	if !errors.As(err, &port) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("is in use by pid %d (", os.Getpid()); runtime.GOOS == "linux" && !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
	if _, err := lifecycle.Listen("192.0.2.1:9"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address of elsewhere: %v", err)
	}
}
