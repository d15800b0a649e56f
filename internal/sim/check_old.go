package sim

// checkOld is I7: a branch with an old directory moves no money while a peer durably knows something newer.
func checkOld(n *node, o op) {
	moves := o.kind == opReceive || o.kind == opSend && o.item.Money != 0
	if moves && n.newer != nil && n.w.newer(n.i, n.durable) {
		n.w.violate("I7 old directory", "%s moved money on an old directory", n.name)
	}
}
