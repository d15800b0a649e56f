package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// others is row 9: what moves money between two random accounts of 1,000 elsewhere, each in its
// fastest durable form, and in the same round two branches. They are general databases that keep one
// set of accounts which any client may read; a branch is an independent ledger that pays by itself. So
// the ratio says what the general thing costs, not that the work is the same.
func (m *machine) others(ctx context.Context) error {
	var errs []error
	for _, rival := range []struct {
		name   string
		start  func(context.Context) (*rival, error)
		target float64
	}{{"PostgreSQL", m.postgres, 200}, {"Redis", m.redis, 10}} {
		r, err := rival.start(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rival.name, err))
			continue
		}
		errs = append(errs, m.against(ctx, rival.name, r, rival.target), r.stop())
	}
	return errors.Join(errs...)
}

// rival is a server that runs, and the ways to ask it.
type rival struct {
	ways []way
	stop func() error
}

type way struct {
	name string
	rate func(ctx context.Context, span time.Duration) (float64, error)
}

func (m *machine) against(ctx context.Context, name string, r *rival, target float64) error {
	return m.withBank(ctx, 2, nil, func(b *bank) error {
		all := make([]series, len(r.ways))
		var ratio series
		for range m.rounds {
			best := 0.0
			for i, w := range r.ways {
				rate, err := w.rate(ctx, m.span)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				all[i].add(rate, 0, 0)
				best = max(best, rate)
			}
			rate, _, err := b.paying(ctx, m.span)
			if err != nil {
				return err
			}
			ratio.add(rate/best, 0, 0)
		}
		for i, w := range r.ways {
			m.table.add(all[i].figure(9, "/s", w.name))
		}
		f := ratio.figure(9, "ratio", "  two branches over the best of "+name)
		f.Note = "(independent ledgers against a general database)"
		m.table.add(f.target(fmt.Sprintf("at least %.0f", target), f.Median >= target))
		return nil
	})
}

// schema moves money in one prepared statement.
const schema = `
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO account SELECT i, 1000000000 FROM generate_series(1, 1000) i;
CREATE FUNCTION move(a int, b int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  IF a < b THEN -- in one order, so that no two wait for each other
    UPDATE account SET balance = balance - 1 WHERE id = a; UPDATE account SET balance = balance + 1 WHERE id = b;
  ELSE
    UPDATE account SET balance = balance + 1 WHERE id = b; UPDATE account SET balance = balance - 1 WHERE id = a;
  END IF;
END $$;`

// postgres is a cluster of its own with the settings that it comes with, fsync among them.
func (m *machine) postgres(ctx context.Context) (*rival, error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if path, err := exec.LookPath("postgres"); err == nil && len(bins) == 0 {
		bins = append(bins, filepath.Dir(path))
	}
	if len(bins) == 0 {
		return nil, errors.New("not installed (Debian: postgresql)")
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp(m.dir, "pg-")
	var as *syscall.SysProcAttr
	if os.Geteuid() == 0 { // which it refuses to run as
		if dir, as, err = postgresUser(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...) //nolint:gosec // PostgreSQL's own
		cmd.Dir, cmd.SysProcAttr = dir, as
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-A", "trust", "-U", "bench").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	server := command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGINT) }
	if err := server.Start(); err != nil {
		return nil, err
	}
	r := &rival{stop: func() error {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
		return os.RemoveAll(dir)
	}}
	for command("pg_isready", "-h", dir).Run() != nil {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, errors.Join(err, r.stop())
		}
	}
	script := filepath.Join(dir, "move.sql")
	err = writeFile(script, "\\set a random(1, 1000)\n\\set b 1 + (:a + random(0, 998)) % 1000\nSELECT move(:a, :b);\n")
	if err == nil {
		err = os.Chmod(script, 0o644) //nolint:gosec // read by another user
	}
	if err == nil {
		var out []byte
		if out, err = command("psql", "-h", dir, "-U", "bench", "-d", "postgres", "-qc", schema).CombinedOutput(); err != nil {
			err = fmt.Errorf("psql: %w: %s", err, out)
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	for _, clients := range []int{1, 8, 32} {
		r.ways = append(r.ways, way{
			fmt.Sprintf("PostgreSQL, one prepared statement, %2d clients", clients),
			func(_ context.Context, span time.Duration) (float64, error) {
				out, err := command("pgbench", "-h", dir, "-U", "bench", "-n", "-M", "prepared", "-f", script, "-c", strconv.Itoa(clients),
					"-j", strconv.Itoa(min(clients, 2)), "-T", strconv.Itoa(max(2, int(span.Seconds()+0.5))), "postgres").CombinedOutput()
				return number(out, err, `tps = ([0-9.]+)`)
			},
		})
	}
	return r, nil
}

// postgresUser is a directory of the user that the package has made, and who that is.
func postgresUser() (string, *syscall.SysProcAttr, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return "", nil, fmt.Errorf("it does not run as root: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	dir, err3 := os.MkdirTemp("/var/tmp", "cutbank-pg-") // where that user may go
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", nil, err
	}
	return dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}},
		os.Chown(dir, int(uid), int(gid))
}

// number finds a rate in what a program printed.
func number(out []byte, err error, pattern string) (float64, error) {
	found := regexp.MustCompile(pattern).FindAllSubmatch(out, -1)
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("%w: %s", errors.Join(err, errors.New("no rate")), out)
	}
	return strconv.ParseFloat(string(found[len(found)-1][1]), 64)
}

// redis appends each command to a file and syncs it before it answers.
func (m *machine) redis(ctx context.Context) (*rival, error) {
	for _, program := range []string{"redis-server", "redis-cli", "redis-benchmark"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, errors.New(program + " is not installed (Debian: redis-server)")
		}
	}
	dir, err := os.MkdirTemp(m.dir, "redis-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(m.sockets, "redis")
	server := exec.CommandContext(ctx, "redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, //nolint:gosec // our own arguments
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	if err := server.Start(); err != nil {
		return nil, err
	}
	r := &rival{stop: func() error {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		return nil
	}}
	var sha []byte
	for len(sha) < 40 {
		sha, err = exec.CommandContext(ctx, "redis-cli", "-s", socket, "SCRIPT", "LOAD", //nolint:gosec // our own arguments
			"redis.call('DECRBY', KEYS[1], 1) redis.call('INCRBY', KEYS[2], 1)").Output()
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, errors.Join(err, r.stop())
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	for _, pipeline := range []int{1, 64} {
		requests := 5_000 * pipeline // of a first run; then as many as fit in the time
		r.ways = append(r.ways, way{
			fmt.Sprintf("Redis, appendfsync always, a script, pipeline of %2d", pipeline),
			func(ctx context.Context, span time.Duration) (float64, error) {
				out, err := exec.CommandContext(ctx, "redis-benchmark", "-s", socket, "-q", "-c", "50", "-r", "1000", //nolint:gosec // our own arguments
					"-P", strconv.Itoa(pipeline), "-n", strconv.Itoa(requests),
					"EVALSHA", strings.TrimSpace(string(sha)), "2", "__rand_int__", "__rand_int__").CombinedOutput()
				rate, err := number(out, err, `([0-9.]+) requests per second`)
				requests = max(1000*pipeline, int(rate*span.Seconds()))
				return rate, err
			},
		})
	}
	return r, nil
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
