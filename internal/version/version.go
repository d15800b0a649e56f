// Package version is which cutbank this is.
package version

// stamp is set when a release is built: -ldflags "-X cutbank/internal/version.stamp=v1.0.0".
var stamp string //nolint:gochecknoglobals // the linker sets variables only

// String is the version of a release, or "devel".
func String() string {
	if stamp == "" {
		return "devel"
	}
	return stamp
}
