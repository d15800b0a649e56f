// Package sim runs a whole bank on one thread, under a seeded scheduler with virtual time: the
// production engine, ledger, journal, frames and link reader of every branch, over a simulated disk
// and network, with whatever faults a seed draws. The same seed gives the same run, step by step.
//
// What is not the production code is written here in its order: the loop of a branch (node.go beside
// internal/branch/loop.go), dialling without the key handshake (net.go beside internal/link), a
// controller (controller.go), the operator who puts old directories back (operator.go).
//
// A run has two phases. In the first, branches pay, controllers take snapshots and faults strike. In
// the second, faults and payments stop, and everything must drain. The checkers (check_*.go, one rule
// each) know nothing of the ledger: they compare with books of the simulator's own (books.go), which
// hold what was decided, applied, durable and told.
//
// Invariant: nothing here reads a clock, a map's order, or another thread.
package sim
