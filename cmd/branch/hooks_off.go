//go:build !hooks

package main

import "cutbank/internal/branch"

// hooks are for tests of the launcher, which build the branch with the tag hooks.
func hooks() func(*branch.Config) { return nil }
