package dashboard

import (
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// States of a branch, as cutbank_branch_state has them.
func states() []string {
	return []string{"starting", "running", "ready", "suspect", "stopping", "backoff", "failed", "stopped", "paused", "remote", "away"}
}

// Metrics is what Prometheus reads of a bank. Everything but the outcomes of snapshots is asked of the bank
// when it is read. Labels are names of branches and channels, states, and reasons of exits without
// details: bounded; a bank of more than MaxChannelBranches has no metrics of channels.
type Metrics struct {
	bank      Bank
	registry  *prometheus.Registry
	snapshots *prometheus.CounterVec
	duration  prometheus.Histogram
	imbalance prometheus.Gauge
	last      prometheus.Gauge

	total, balance, up, state, restarts, recovery, sync           *prometheus.Desc
	inTransit, sentCount, sentMoney, receivedCount, receivedMoney *prometheus.Desc
}

// NewMetrics makes the metrics of a bank.
func NewMetrics(bank Bank) *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cutbank_"+name, help, labels, nil)
	}
	m := &Metrics{
		bank: bank, registry: prometheus.NewRegistry(),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cutbank_snapshots_total", Help: "Snapshots by outcome: consistent, inconsistent, incomplete.",
		}, []string{"status"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cutbank_snapshot_duration_seconds", Help: "From the request to the last branch's answer, of complete snapshots.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		imbalance: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cutbank_snapshot_imbalance_money", Help: "Found minus total in the last complete snapshot: anything but 0 is a bug.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cutbank_snapshot_last_success_timestamp_seconds", Help: "When the last consistent snapshot was complete.",
		}),
		total:         desc("total_money", "Money in the bank."),
		balance:       desc("branch_balance_money", "Balance as the branch last told it.", "branch"),
		up:            desc("branch_up", "1 when all links of the branch are up.", "branch"),
		state:         desc("branch_state", "1 for the state that the branch's process is in.", "branch", "state"),
		restarts:      desc("branch_restarts_total", "Starts after an exit, by how the process ended.", "branch", "reason"),
		recovery:      desc("branch_recovery_seconds", "Of the last restart, from the exit until all links were up; 0 before any.", "branch"),
		sync:          desc("journal_sync_seconds", "Syncs of commits to the disk, since the branch's last start.", "branch"),
		inTransit:     desc("channel_in_transit_money", "Sent minus received, as both ends last told: an estimate.", "src", "dst"),
		sentCount:     desc("transfers_sent_total", "Transfers sent since the bank was opened.", "src", "dst"),
		sentMoney:     desc("money_sent_total", "Money sent since the bank was opened.", "src", "dst"),
		receivedCount: desc("transfers_received_total", "Transfers received since the bank was opened.", "src", "dst"),
		receivedMoney: desc("money_received_total", "Money received since the bank was opened.", "src", "dst"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cutbank_build_info", Help: "1, with the version.", ConstLabels: prometheus.Labels{"version": bank.Hello().Version},
	})
	build.Set(1)
	for _, status := range []string{"consistent", "inconsistent", "incomplete"} {
		m.snapshots.WithLabelValues(status)
	}
	m.registry.MustRegister(build, m.snapshots, m.duration, m.imbalance, m.last, m)
	return m
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: requestLimit / 2})
}

// Snapshot counts one that has ended.
func (m *Metrics) Snapshot(status string, took time.Duration, imbalance int64) {
	m.snapshots.WithLabelValues(status).Inc()
	if status == "incomplete" {
		return
	}
	m.duration.Observe(took.Seconds())
	m.imbalance.Set(float64(imbalance))
	if status == "consistent" {
		m.last.SetToCurrentTime()
	}
}

// Describe is of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.total, m.balance, m.up, m.state, m.restarts, m.recovery, m.sync,
		m.inTransit, m.sentCount, m.sentMoney, m.receivedCount, m.receivedMoney,
	} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	s := m.bank.State()
	put(m.total, gauge, float64(m.bank.Hello().Total))
	for i := range s.Branches {
		b := &s.Branches[i]
		put(m.balance, gauge, float64(b.Balance), b.Name)
		put(m.up, gauge, truth(b.Up), b.Name)
		for _, state := range states() {
			put(m.state, gauge, truth(b.State == state), b.Name, state)
		}
		put(m.recovery, gauge, b.RecoverySeconds, b.Name)
		for reason, n := range b.Exits {
			put(m.restarts, counter, float64(n), b.Name, reason)
		}
		ch <- syncs(m.sync, b)
	}
	for i := range s.Channels {
		c := &s.Channels[i]
		put(m.inTransit, gauge, float64(c.InTransit), c.Src, c.Dst)
		put(m.sentCount, counter, float64(c.SentCount), c.Src, c.Dst)
		put(m.sentMoney, counter, float64(c.SentMoney), c.Src, c.Dst)
		put(m.receivedCount, counter, float64(c.ReceivedCount), c.Src, c.Dst)
		put(m.receivedMoney, counter, float64(c.ReceivedMoney), c.Src, c.Dst)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// syncs is the branch's histogram with Prometheus's cumulative buckets, from 64 µs to 17 s.
func syncs(d *prometheus.Desc, b *Branch) prometheus.Metric {
	const first, last = 6, 24
	buckets := make(map[float64]uint64)
	var n uint64
	for i, count := range b.SyncMicrosLog2 {
		n += count
		if i >= first && i <= last {
			buckets[math.Ldexp(1, i)/1e6] = n
		}
	}
	return prometheus.MustNewConstHistogram(d, n, float64(b.SyncMicrosSum)/1e6, buckets, b.Name)
}
