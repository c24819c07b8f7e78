package containerd

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// exhausted gives an error of the host's having run out of something its class: containerd's
// services keep the message of what they were told, and not what it is.
func exhausted(err error) error {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE} {
		if strings.HasSuffix(err.Error(), errno.Error()) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
		}
	}
	return err
}
