package netns

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// List repeats a listing that the kernel says may be incomplete, because something
// changed meanwhile (NLM_F_DUMP_INTR). A busy host changes all the time, so it
// gives up in the end.
func List[T any](list func() (T, error)) (T, error) {
	for range 50 {
		if v, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return list()
}
