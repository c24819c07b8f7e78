// Package kind has the kinds of what ctrsnap makes, and their ids: a letter for the kind, and eleven random digits and
// small letters. They become names of files, links and containers, so what has such a name is known to be ours, and of what kind.
package kind

import (
	"crypto/rand"
	"strings"
)

// Kind is what an id is of.
type Kind string

// Kinds.
const (
	Build     Kind = "b"
	Clone     Kind = "c"
	Namespace Kind = "n" // of the pool of networks
	Sandbox   Kind = "s"
)

// size is how long an id is.
const size = 12

// New returns an id of 55 random bits.
func (k Kind) New() string { return string(k) + strings.ToLower(rand.Text()[:size-1]) }

// Is says whether an id is of this kind: what has another form belongs to others.
func (k Kind) Is(id string) bool {
	return len(id) == size && id[:1] == string(k) && strings.Trim(id[1:], "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
