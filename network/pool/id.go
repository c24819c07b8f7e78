package pool

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// idRE is the grammar of the pool's own ids.
var idRE = regexp.MustCompile(`^n[0-9a-z]{11}$`)

func ours(id string) bool { return idRE.MatchString(id) }

func newID() string { return "n" + strings.ToLower(rand.Text())[:11] }

func checkID(id string) error {
	if ours(id) {
		return fmt.Errorf("id %q is of the pool's own kind: %w", id, errdefs.ErrInvalidArgument)
	}
	return netns.CheckID(id)
}
