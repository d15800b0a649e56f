package ledger

import "math/bits"

// outbox is the unacknowledged part of an outgoing channel: items acked+1 … sent, each with the
// content hash of the channel up to and including it. A ring that grows with what is kept.
type outbox struct {
	sent, acked uint64
	ackedHash   uint64  // of the channel up to item acked
	ring        []entry // length a power of two; item n is at (n−1) mod length
}

type entry struct {
	Item
	hash uint64
}

func (o *outbox) len() int { return int(o.sent - o.acked) } //nolint:gosec // bounded by the window and the markers

func (o *outbox) at(n uint64) *entry { return &o.ring[(n-1)&uint64(len(o.ring)-1)] } //nolint:gosec // a length

// hash is the content hash of the channel up to item n, acked ≤ n ≤ sent.
func (o *outbox) hash(n uint64) uint64 {
	if n == o.acked {
		return o.ackedHash
	}
	return o.at(n).hash
}

func (o *outbox) push(item Item) {
	if o.len() == len(o.ring) {
		o.grow()
	}
	h := mix(o.hash(o.sent), item)
	o.sent++
	*o.at(o.sent) = entry{item, h}
}

func (o *outbox) grow() {
	ring := make([]entry, max(16, 2*len(o.ring)))
	for n := o.acked + 1; n <= o.sent; n++ {
		ring[(n-1)&uint64(len(ring)-1)] = *o.at(n) //nolint:gosec // a length
	}
	o.ring = ring
}

func (o *outbox) acknowledge(count uint64) {
	o.ackedHash = o.hash(count)
	o.acked = count
}

// mix continues the running content hash of a channel with an item. It tells histories apart that
// went different ways (an old or foreign directory); it is not meant against an adversary, who would
// have to be a branch of the bank. A test-only id does not count.
func mix(hash uint64, item Item) uint64 {
	const k = 0x9e3779b97f4a7c15 // 2^64 over the golden ratio
	x := item.Money << 1
	if item.Marker != 0 {
		x = item.Marker<<1 | 1
	}
	hi, lo := bits.Mul64(hash^x^k, 0xd6e8feb86659fd93)
	return hi ^ lo + k
}
