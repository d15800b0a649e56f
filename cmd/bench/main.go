// Command bench measures the bank on this machine: real branch processes under a supervisor and a
// controller, beside the ceiling program (ceiling.go) of the same minute, and, when they are
// installed, PostgreSQL and Redis. It prints one table and writes it as JSON.
//
// It asserts nothing: where a target is missed the table says so. Figures of a busy machine differ by
// a factor from hour to hour; the ratios, each taken within a second or two, hardly do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

const ceilingWord = "ceiling-process"

// machine is where and how is measured.
type machine struct {
	dir     string // on the disk that is measured
	sockets string // short path, 0700
	branch  string // the program
	rounds  int
	span    time.Duration // of one measurement
	sizes   []int         // of banks, of rows 1 and 2
	scale   int           // the largest bank of row 10
	svg     string
	profile string
	log     io.Writer
	table   table
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == ceilingWord {
		if err := ceilingMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "ceiling:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is a part of the table.
type row struct {
	number int
	what   string
	run    func(*machine, context.Context) error
}

func rows() []row {
	return []row{
		{1, "durable transfers", (*machine).transfers},
		{2, "cost of a snapshot every 100 ms", (*machine).underSnapshots},
		{3, "snapshot duration", (*machine).snapshots},
		{4, "latency of transfers and markers", (*machine).latencies},
		{5, "recovery of a million events", (*machine).recovery},
		{6, "kill -9 to ready", (*machine).kills},
		{7, "memory", (*machine).memory},
		{8, "the ceiling program", (*machine).ceilings},
		{9, "PostgreSQL and Redis", (*machine).others},
		{10, "size of the bank", (*machine).sizesOfBank},
		{11, "the journal and raft-wal", (*machine).journals},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	m := &machine{log: stderr}
	fs := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	only := fs.IntSlice("rows", nil, "rows of the table to measure (default: all, 1 to 11)")
	fs.StringVar(&m.branch, "branch", "bin/branch", "the branch program")
	dir := fs.String("dir", "data", "directory on the disk that is measured; what is made in it is removed")
	jsonFile := fs.String("json", "bench.json", "file for the table as JSON; empty: none")
	fs.StringVar(&m.svg, "svg", "", "file for the curves of row 10; empty: none")
	doc := fs.String("doc", "", "document whose table is replaced; empty: none")
	fs.IntVar(&m.rounds, "rounds", 5, "measurements of each figure; the table has the median")
	fs.DurationVar(&m.span, "span", 700*time.Millisecond, "length of one measurement")
	fs.IntSliceVar(&m.sizes, "sizes", []int{2, 4, 8, 16}, "branches of the banks in rows 1 and 2")
	fs.IntVar(&m.scale, "scale", 256, "branches of the largest bank in row 10")
	fs.StringVar(&m.profile, "profile", "", "directory for a CPU profile of each branch (make profile)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if m.branch, err = filepath.Abs(m.branch); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	if m.dir, err = os.MkdirTemp(*dir, "bench-"); err != nil {
		return err
	}
	if m.dir, err = filepath.Abs(m.dir); err != nil {
		return err
	}
	if m.sockets, err = os.MkdirTemp("", "cb-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir), os.RemoveAll(m.sockets)) }()
	m.table.Machine = describe(m.dir)
	began := time.Now()
	if m.profile != "" {
		return m.profiles(ctx, stdout)
	}
	for _, r := range rows() {
		if ctx.Err() != nil || len(*only) > 0 && !slices.Contains(*only, r.number) {
			continue
		}
		fmt.Fprintf(m.log, "bench: %4.0fs  row %d, %s\n", time.Since(began).Seconds(), r.number, r.what)
		if err := r.run(m, ctx); err != nil {
			m.table.Missing = append(m.table.Missing, fmt.Sprintf("row %d, %s: %v", r.number, r.what, err))
		}
	}
	m.table.Seconds = time.Since(began).Round(time.Second).Seconds()
	return errors.Join(m.table.print(stdout), m.table.write(*jsonFile), m.table.document(*doc))
}

// profiles runs two branches under full load, each writing where its CPU goes.
func (m *machine) profiles(ctx context.Context, stdout io.Writer) error {
	if err := os.MkdirAll(m.profile, 0o700); err != nil {
		return err
	}
	dir, err := filepath.Abs(m.profile)
	if err != nil {
		return err
	}
	return m.withBank(ctx, m.sizes[0], []string{"--cpu-profile", filepath.Join(dir, "{name}")}, func(b *bank) error {
		rate, cpu, err := b.paying(ctx, time.Duration(m.rounds)*m.span)
		fmt.Fprintf(stdout, "%s durable transfers, %.0f ns of CPU each, both sides\n", format(rate, "/s"), cpu)
		return err
	})
}

// describe says on what is measured.
func describe(dir string) string {
	var parts []string
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		model, n := "CPU", strings.Count(string(info), "\nprocessor")+1
		for line := range strings.Lines(string(info)) {
			if rest, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.Trim(rest, " \t:\n")
			}
		}
		parts = append(parts, strconv.Itoa(n)+" × "+model)
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		parts = append(parts, "load before "+strings.Fields(string(load))[0])
	}
	var st syscall.Statfs_t
	const tmpfs = 0x01021994
	if syscall.Statfs(dir, &st) == nil && int64(st.Type) == tmpfs { //nolint:unconvert // int32 elsewhere
		parts = append(parts, "NOT A DISK: "+dir+" is in memory (--dir)")
	}
	return strings.Join(parts, ", ")
}
