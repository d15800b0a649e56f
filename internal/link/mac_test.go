package link_test

import (
	"bytes"
	"testing"

	"cutbank/internal/link"
)

func TestMACsDependOnEveryPart(t *testing.T) {
	t.Parallel()
	key, a, b, id := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 16), bytes.Repeat([]byte{3}, 16), bytes.Repeat([]byte{4}, 16)
	other := bytes.Repeat([]byte{9}, 16)
	macs := map[string][]byte{
		"branch":          link.BranchMAC(key, a, b, id, "branch1"),
		"controller":      link.ControllerMAC(key, a, b, id, "branch1"),
		"other key":       link.BranchMAC(other, a, b, id, "branch1"),
		"other nonce":     link.BranchMAC(key, other, b, id, "branch1"),
		"other answer":    link.BranchMAC(key, a, other, id, "branch1"),
		"nonces exchange": link.BranchMAC(key, b, a, id, "branch1"),
		"other bank":      link.BranchMAC(key, a, b, other, "branch1"),
		"other name":      link.BranchMAC(key, a, b, id, "branch2"),
	}
	seen := map[string]string{}
	for name, mac := range macs {
		if before, ok := seen[string(mac)]; ok {
			t.Errorf("%s and %s have the same mac", name, before)
		}
		seen[string(mac)] = name
	}
	if !bytes.Equal(macs["branch"], link.BranchMAC(key, a, b, id, "branch1")) {
		t.Error("the mac is not a function of its arguments")
	}
}
