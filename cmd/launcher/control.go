package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"cutbank/internal/lifecycle"
	"cutbank/internal/supervise"
)

// The subcommands talk to the running launcher over a Unix socket in the private directory of its data
// directory: one JSON request per connection, one JSON answer.

const (
	controlSocket  = "launcher.sock"
	controlTimeout = 5 * time.Second
	maxRequest     = 4 << 10
	maxControl     = 64 // connections; one more waits until one of them ends
)

// request of a subcommand.
type request struct {
	Command string `json:"command"`
	Branch  string `json:"branch,omitempty"`
}

// answer to it.
type answer struct {
	Error  string  `json:"error,omitempty"`
	Status *report `json:"status,omitempty"`
}

// report is what status shows, and with --json.
type report struct {
	Schema   string             `json:"schema"`
	Launcher int                `json:"launcher"` // pid; 0: none runs
	DataDir  string             `json:"data_dir"`
	Branches []supervise.Status `json:"branches"`
}

// control answers the subcommands.
type control struct {
	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
}

// serveControl listens in the directory; answer is called for each request. The answer of "down" is sent,
// and its connection stays open until the launcher has ended.
func serveControl(sockets string, do func(request) answer) (*control, error) {
	path := filepath.Join(sockets, controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l = netutil.LimitListener(l, maxControl)
	c := &control{listener: l, open: make(map[net.Conn]bool)}
	c.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.serve(nc, do) })
		}
	})
	return c, nil
}

func (c *control) serve(nc net.Conn, do func(request) answer) {
	c.keep(nc, true)
	defer c.keep(nc, false)
	if nc.SetDeadline(time.Now().Add(controlTimeout)) != nil {
		return
	}
	var q request
	line, err := bufio.NewReaderSize(nc, maxRequest).ReadSlice('\n')
	if err != nil || json.Unmarshal(line, &q) != nil {
		return
	}
	if json.NewEncoder(nc).Encode(do(q)) == nil && q.Command == "down" && nc.SetDeadline(time.Time{}) == nil {
		_, _ = nc.Read(line[:1]) // until close, or the client is gone
	}
}

func (c *control) keep(nc net.Conn, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open {
		c.open[nc] = true
		return
	}
	delete(c.open, nc)
	_ = nc.Close()
}

// close ends the server; it takes the socket away.
func (c *control) close() {
	_ = c.listener.Close()
	c.mu.Lock()
	for nc := range c.open {
		_ = nc.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// verbs are what can be done to a branch by hand.
func verbs(s *supervise.Supervisor) map[string]func(name string) error {
	return map[string]func(string) error{"kill": s.Kill, "pause": s.Pause, "resume": s.Resume, "restart": s.Restart, "reset": s.Reset}
}

// answer does what a subcommand asks for; down ends the launcher, and its branches whatever --detach says.
func (o *options) answer(s *supervise.Supervisor, down func()) func(request) answer {
	verbs := verbs(s)
	verbs["down"] = func(string) error { down(); return nil }
	verbs["status"] = func(string) error { return nil }
	return func(q request) answer {
		do := verbs[q.Command]
		if do == nil {
			return answer{Error: fmt.Sprintf("this launcher does not know %q: is it of another version?", q.Command)}
		}
		if err := do(q.Branch); err != nil {
			return answer{Error: err.Error()}
		}
		dir, _ := filepath.Abs(o.DataDir)
		return answer{Status: &report{Schema: statusSchema, Launcher: os.Getpid(), DataDir: dir, Branches: s.Status()}}
	}
}

const statusSchema = "cutbank.status/1"

// ask sends a request to the launcher of a data directory. The connection is the caller's to close.
func ask(dataDir string, q request) (answer, net.Conn, error) {
	sockets, err := lifecycle.SocketDir(dataDir, false)
	if err != nil {
		return answer{}, nil, err
	}
	nc, err := lifecycle.DialPeer(filepath.Join(sockets, controlSocket), 0)
	if err != nil {
		return answer{}, nil, err
	}
	var a answer
	if err = nc.SetDeadline(time.Now().Add(controlTimeout)); err == nil {
		if err = json.NewEncoder(nc).Encode(q); err == nil {
			err = json.NewDecoder(nc).Decode(&a)
		}
	}
	if err != nil {
		return answer{}, nil, errors.Join(err, nc.Close())
	}
	if a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, nc, errors.Join(err, nc.SetDeadline(time.Time{}))
}
