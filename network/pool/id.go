package pool

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

func ours(id string) bool { return kind.Namespace.Is(id) }

func newID() string { return kind.Namespace.New() }

func checkID(id string) error {
	if ours(id) {
		return fmt.Errorf("id %q is of the pool's own kind: %w", id, errdefs.ErrInvalidArgument)
	}
	return netns.CheckID(id)
}
