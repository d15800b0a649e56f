package sim

// checkPrefix is I3: what is durably received on a channel is a prefix of what is durably sent.
func checkPrefix(n *node, o op) {
	if o.kind != opReceive {
		return
	}
	sent, k := n.w.nodes[o.peer].truth().sent[n.i], len(n.durable.received[o.peer])
	switch {
	case k > len(sent):
		n.w.violate("I3 prefix", "%s has received %d items of p%d, which has durably sent %d", n.name, k, o.peer, len(sent))
	case sent[k-1] != o.item:
		n.w.violate("I3 prefix", "item %d of p%d->%s was sent as %+v and received as %+v", k, o.peer, n.name, sent[k-1], o.item)
	}
}

// truth is the books that hold: those of the directory that is aside while an old one is in place.
func (n *node) truth() *books {
	if n.newer != nil {
		return n.newer.books
	}
	return n.durable
}
