// Package version holds what the binaries say about themselves. The linker sets
// the variables; `go run` and `go test` leave the defaults.
package version

// Version is the release, or `git describe` between releases.
var Version = "dev"

// Commit is the git commit, or "".
var Commit = ""
