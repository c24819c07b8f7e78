package cni

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/ctrsnap/ctrsnap/network"
)

// pluginError wraps what libcni says, which names the plugin, and finds its
// class. Plugins have no codes for most of what goes wrong: the texts are
// host-local's and the kernel's (EXFULL, a bridge with 1,023 ports).
func (n *Network) pluginError(verb, id string, err error) error {
	wrap := func(class error, hint string) error {
		return network.WithHint(
			fmt.Errorf("%s %s, network %s: %w: %w", verb, id, n.list.Name, err, class), hint)
	}
	var coded *types.Error
	switch msg := err.Error(); {
	case strings.Contains(msg, "no IP addresses available"):
		return wrap(errdefs.ErrResourceExhausted, "remove clones, or configure a larger subnet")
	case strings.Contains(msg, "exchange full"):
		return wrap(errdefs.ErrResourceExhausted, "a bridge has 1,023 ports: remove clones")
	case strings.Contains(msg, "failed to find plugin"):
		return wrap(errdefs.ErrFailedPrecondition, n.pluginHint())
	case errors.As(err, &coded) && coded.Code == types.ErrTryAgainLater:
		return wrap(errdefs.ErrUnavailable, "try again")
	}
	return network.WithHint(
		fmt.Errorf("%s %s, network %s: %w", verb, id, n.list.Name, err), n.pluginHint())
}

func (n *Network) pluginHint() string {
	return "CNI plugins are looked for in " + strings.Join(n.opts.BinDirs, ", ")
}
