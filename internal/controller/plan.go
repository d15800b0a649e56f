package controller

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"cutbank/internal/roster"
	"cutbank/internal/wire"
	"cutbank/proto/bankpb"
)

// PlanFile is the plan of the bank in its data directory, with the key: mode 0600.
const PlanFile = "bank.json"

const (
	planSchema  = "cutbank.bank/1"
	planLock    = "bank.lock"
	bankIDBytes = 16
	keyBytes    = 32
)

// Plan is what makes a bank. It is on disk before it is proposed to any branch and only OpenedAt is
// ever added to it.
type Plan struct {
	Schema         string       `json:"schema"`
	BankID         string       `json:"bank_id"` // 32 hexadecimal digits
	Key            string       `json:"key"`     // 64 hexadecimal digits
	Total          uint64       `json:"total"`
	Branches       []Share      `json:"branches"` // roster order
	InTransit      []Transit    `json:"in_transit,omitempty"`
	LastSnapshotID uint64       `json:"last_snapshot_id"` // ids of this bank are above it
	BrokenRule     string       `json:"broken_rule,omitempty"`
	OpenedAt       string       `json:"opened_at,omitempty"` // since when all branches hold it
	RestoredFrom   *RestoredRef `json:"restored_from,omitempty"`
}

// Share is what a branch starts with.
type Share struct {
	Name    string `json:"name"`
	Balance uint64 `json:"balance"`
}

// Transit is money that goes on its channel again when a restored bank is opened.
type Transit struct {
	Src   string `json:"src"`
	Dst   string `json:"dst"`
	Money uint64 `json:"money"`
}

// RestoredRef says which snapshot of which bank a restored bank was opened from.
type RestoredRef struct {
	BankID     string `json:"bank_id"`
	SnapshotID uint64 `json:"snapshot_id"`
}

// NewPlan is the plan of a new bank: the total split over the roster, a new id and a new key.
func NewPlan(r roster.Roster, total uint64) Plan {
	p := Plan{Schema: planSchema, BankID: randomHex(bankIDBytes), Key: randomHex(keyBytes), Total: total}
	for i, share := range roster.Shares(total, len(r.Branches)) {
		p.Branches = append(p.Branches, Share{Name: r.Branches[i].Name, Balance: share})
	}
	return p
}

// RestorePlan is the plan of a new bank that starts where a snapshot was taken: its balances, and
// the money that was in transit back on its channels. Only a consistent snapshot can be restored.
func RestorePlan(r Record) (Plan, error) {
	if r.Status != Consistent {
		return Plan{}, fmt.Errorf("snapshot %d is %s: restore a consistent one", r.SnapshotID, r.Status)
	}
	p := Plan{
		Schema: planSchema, BankID: randomHex(bankIDBytes), Key: randomHex(keyBytes), Total: r.Total,
		LastSnapshotID: r.SnapshotID, RestoredFrom: &RestoredRef{BankID: r.BankID, SnapshotID: r.SnapshotID},
	}
	for _, b := range r.Branches {
		p.Branches = append(p.Branches, Share{Name: b.Name, Balance: b.Balance})
	}
	for _, c := range r.Channels {
		if c.Amount > 0 {
			p.InTransit = append(p.InTransit, Transit{Src: c.Src, Dst: c.Dst, Money: c.Amount})
		}
	}
	if n := len(p.InTransit); n > wire.MaxInTransit {
		return Plan{}, fmt.Errorf("snapshot %d has money in transit on %d channels: at most %d can be restored; take one with fewer",
			r.SnapshotID, n, wire.MaxInTransit)
	}
	if err := p.validate(); err != nil {
		return Plan{}, fmt.Errorf("snapshot %d: %w", r.SnapshotID, err)
	}
	return p, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Names are the branches of the plan in roster order.
func (p Plan) Names() []string {
	names := make([]string, len(p.Branches))
	for i, b := range p.Branches {
		names[i] = b.Name
	}
	return names
}

func (p Plan) validate() error {
	if p.Schema != planSchema {
		return fmt.Errorf("schema %q: this program reads %s", p.Schema, planSchema)
	}
	if id, err := hex.DecodeString(p.BankID); err != nil || len(id) != bankIDBytes {
		return fmt.Errorf("bank_id %q is not %d bytes in hexadecimal", p.BankID, bankIDBytes)
	}
	if key, err := hex.DecodeString(p.Key); err != nil || len(key) != keyBytes {
		return fmt.Errorf("the key is not %d bytes in hexadecimal", keyBytes)
	}
	names := p.Names()
	var sum uint64
	for _, b := range p.Branches {
		sum = add(sum, b.Balance)
	}
	for _, t := range p.InTransit {
		if !slices.Contains(names, t.Src) || !slices.Contains(names, t.Dst) || t.Src == t.Dst {
			return fmt.Errorf("no channel %s->%s", t.Src, t.Dst)
		}
		sum = add(sum, t.Money)
	}
	if sum != p.Total {
		return fmt.Errorf("balances and money in transit are %d, not the total of %d", sum, p.Total)
	}
	return nil
}

// proto is the plan as branches are given it.
func (p Plan) proto() *bankpb.Plan {
	m := &bankpb.Plan{
		BankId: p.id(), Key: p.key(), Total: p.Total, LastSnapshotId: p.LastSnapshotID, BrokenRule: p.BrokenRule,
	}
	for _, b := range p.Branches {
		m.Balances = append(m.Balances, b.Balance)
	}
	names := p.Names()
	for _, t := range p.InTransit {
		m.InTransit = append(m.InTransit, &bankpb.InTransit{
			Src: uint32(slices.Index(names, t.Src)), Dst: uint32(slices.Index(names, t.Dst)), Money: t.Money, //nolint:gosec // validate: both are there
		})
	}
	return m
}

func (p Plan) id() []byte  { return unhex(p.BankID) }
func (p Plan) key() []byte { return unhex(p.Key) }

// unhex reads what validate has checked.
func unhex(text string) []byte {
	b, _ := hex.DecodeString(text)
	return b
}

// ReadPlan reads the plan of a data directory; nil when it holds none.
func ReadPlan(dir string) (*Plan, error) {
	path := filepath.Join(dir, PlanFile)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the plan of the bank: %w", err)
	}
	content, err := os.ReadFile(path) //nolint:gosec // of the data directory
	if err != nil {
		return nil, fmt.Errorf("read the plan of the bank: %w", err)
	}
	var p Plan
	if err := json.Unmarshal(content, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &p, nil
}

// createPlan puts a plan into the directory, durably, and returns the one that holds: another
// controller may have been first. The plan whose id is replaced is moved aside, and its new name
// returned; "" replaces none.
func createPlan(dir string, p Plan, replaced string) (holds *Plan, aside string, err error) {
	err = lockedPlan(dir, func() error {
		held, err := ReadPlan(dir)
		if err != nil {
			return err
		}
		if held != nil && held.BankID != replaced {
			holds = held
			return nil
		}
		if held != nil {
			aside = "bank-" + held.BankID + ".json"
			if err := os.Rename(filepath.Join(dir, PlanFile), filepath.Join(dir, aside)); err != nil {
				return err
			}
		}
		holds = &p
		return writePlan(dir, p)
	})
	return holds, aside, err
}

// markOpened notes in the directory that all branches hold the plan.
func markOpened(dir string, p *Plan) error {
	return lockedPlan(dir, func() error {
		held, err := ReadPlan(dir)
		if err != nil {
			return err
		}
		if held == nil || held.BankID != p.BankID {
			return fmt.Errorf("%s was replaced while the bank was being opened: start again", filepath.Join(dir, PlanFile))
		}
		if held.OpenedAt == "" {
			held.OpenedAt = stamp(time.Now())
			if err := writePlan(dir, *held); err != nil {
				return err
			}
		}
		*p = *held
		return nil
	})
}

func lockedPlan(dir string, f func() error) error {
	lock := flock.New(filepath.Join(dir, planLock), flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock the plan of the bank: %w", err)
	}
	if err := errors.Join(f(), lock.Close()); err != nil {
		return fmt.Errorf("the plan of the bank: %w", err)
	}
	return nil
}

// writePlan replaces the file at once and durably: after a crash it is the old one or the new one.
func writePlan(dir string, p Plan) error {
	content, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, PlanFile+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // only still there after an error
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, PlanFile)); err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // the data directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
