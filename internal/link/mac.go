package link

import (
	"crypto/hmac"
	"crypto/sha256"
)

// BranchMAC proves to a controller that the branch of that name holds the key of the bank.
// Compare with hmac.Equal.
func BranchMAC(key, controllerNonce, branchNonce, bankID []byte, name string) []byte {
	return mac(key, "cutbank branch v1", controllerNonce, branchNonce, bankID, name)
}

// ControllerMAC proves to the branch of that name that the controller holds the key of the bank.
// Compare with hmac.Equal.
func ControllerMAC(key, controllerNonce, branchNonce, bankID []byte, name string) []byte {
	return mac(key, "cutbank controller v1", controllerNonce, branchNonce, bankID, name)
}

// mac needs no separators: all parts but the last have a fixed length.
func mac(key []byte, purpose string, controllerNonce, branchNonce, bankID []byte, name string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(purpose))
	h.Write(controllerNonce)
	h.Write(branchNonce)
	h.Write(bankID)
	h.Write([]byte(name))
	return h.Sum(nil)
}
