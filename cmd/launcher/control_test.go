package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cutbank/internal/lifecycle"
)

// TestControlFull: so many requests may be under way at once; those that come besides wait for their turn.
func TestControlFull(t *testing.T) {
	dir := t.TempDir()
	sockets, err := lifecycle.SocketDir(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	release := make(chan struct{})
	c, err := serveControl(sockets, func(request) answer {
		if n := now.Add(1); n > most.Load() {
			most.Store(n) // of two at once the lower one may stay: only a bound is checked
		}
		<-release
		now.Add(-1)
		return answer{}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	var clients sync.WaitGroup
	for range maxControl + 8 {
		clients.Go(func() {
			nc, err := lifecycle.DialPeer(filepath.Join(sockets, controlSocket), 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			_ = json.NewEncoder(nc).Encode(request{Command: "status"})
			_, _ = nc.Read(make([]byte, 1)) // of a slow machine the server tires
		})
	}
	end := time.Now().Add(time.Minute)
	for ; now.Load() < maxControl; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests are under way", now.Load())
		}
	}
	close(release)
	clients.Wait()
	if n := most.Load(); n > maxControl {
		t.Errorf("%d requests were under way at once", n)
	}
	for {
		_, nc, err := ask(dir, request{Command: "status"})
		if err == nil {
			_ = nc.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestControlRequest: a request has a length that is read, and a longer one is not answered.
func TestControlRequest(t *testing.T) {
	sockets, err := lifecycle.SocketDir(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	c, err := serveControl(sockets, func(request) answer { return answer{} })
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ask := func(length int) bool {
		nc, err := lifecycle.DialPeer(filepath.Join(sockets, controlSocket), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		text := []byte(`{"command":"status"}`)
		_, _ = nc.Write(append(append(text, bytes.Repeat([]byte(" "), length-len(text)-1)...), '\n'))
		n, _ := nc.Read(make([]byte, 1))
		return n == 1
	}
	for end := time.Now().Add(time.Minute); !ask(maxRequest); { // of a slow machine the server tires
		if time.Now().After(end) {
			t.Fatal("the longest request is not answered")
		}
	}
	if ask(maxRequest + 1) {
		t.Error("a longer one is answered")
	}
}
