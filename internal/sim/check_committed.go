package sim

// checkCommitted looks at a step that has become durable: I3, I5 and I7.
func checkCommitted(n *node, o op) {
	checkPrefix(n, o)
	checkBalance(n)
	checkOld(n, o)
}

// checkBalance is I5: no balance is ever negative.
func checkBalance(n *node) {
	if n.durable.balance < 0 {
		n.w.violate("I5 balance", "%s has %d", n.name, n.durable.balance)
	}
}
