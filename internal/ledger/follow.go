package ledger

// Kind of an Event.
type Kind uint8

// What happens in a branch, as one who follows its journal sees it. An event of the journal may be
// several: a first marker is MarkerReceived, Recorded, and a MarkerSent on every channel.
const (
	Started Kind = iota + 1
	Sent
	Received
	Recorded
	MarkerSent
	MarkerReceived
)

// Event is one thing that happened.
type Event struct {
	Kind     Kind
	Peer     int    // of the channel; of Started and Recorded the branch itself
	N        uint64 // number of the item on its channel, transfers and markers counted
	Money    uint64 // of a transfer
	Snapshot uint64 // of Recorded and markers
	Balance  uint64 // of the branch, afterwards
	At       int64  // in microseconds since 1970, as the batch was stamped; 0: it was not
}

// teller tells a follower what was applied.
type teller struct {
	l   *Ledger
	see func(Event)
	at  int64
}

func (t *teller) tell(e Event) {
	if t.see != nil {
		e.At, e.Balance = t.at, t.l.balance
		if e.N == 0 {
			e.Peer = t.l.self
		}
		t.see(e)
	}
}

// item tells of the last item of a channel with a peer.
func (t *teller) item(kind Kind, peer int, money, id uint64) {
	if t.see == nil {
		return
	}
	n := t.l.pairs[peer].received
	if kind == Sent || kind == MarkerSent {
		n = t.l.pairs[peer].out.sent
	}
	t.tell(Event{Kind: kind, Peer: peer, N: n, Money: money, Snapshot: id})
}

func (t *teller) recorded(id uint64) {
	t.tell(Event{Kind: Recorded, Snapshot: id})
	for peer := range t.l.pairs {
		if box := &t.l.pairs[peer].out; peer != t.l.self && box.len() > 0 && box.at(box.sent).Marker == id { // else a rule is off
			t.item(MarkerSent, peer, 0, id)
		}
	}
}

// restored tells of money that was on its way when the bank was opened, as of transfers.
func (t *teller) restored(list []InTransit) {
	n := make(map[int]uint64)
	for _, i := range list {
		if i.Src == t.l.self {
			n[i.Dst]++
			t.tell(Event{Kind: Sent, Peer: i.Dst, N: n[i.Dst], Money: i.Money})
		}
	}
}
