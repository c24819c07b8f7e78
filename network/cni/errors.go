package cni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/ctrsnap/ctrsnap/network"
)

// classes finds the class of an error by what host-local and the kernel say
// (EXFULL: a bridge with 1,023 ports): plugins have codes for little of what
// goes wrong.
var classes = []struct {
	says, hint string
	class      error
}{
	{"no ip addresses available", "remove clones, or configure a larger range", errdefs.ErrResourceExhausted},
	{"exchange full", "a bridge has 1,023 ports: remove clones", errdefs.ErrResourceExhausted},
	{"requested ip address", "ask for another address", errdefs.ErrAlreadyExists},
	{"failed to allocate all requested ips", "ask for an address of the network's range", errdefs.ErrInvalidArgument},
	{"already has an ip address different from", "its range has changed: delete that bridge when nobody uses it, or name another one", errdefs.ErrFailedPrecondition},
	{"link not found", "", errdefs.ErrNotFound},
	{"failed to lookup master", "", errdefs.ErrNotFound},
}

// codes are those of the specification, section "Error".
var codes = map[uint]struct {
	hint  string
	class error
}{
	types.ErrIncompatibleCNIVersion: {"use a cniVersion that the plugin knows", errdefs.ErrFailedPrecondition},
	types.ErrUnsupportedField:       {"", errdefs.ErrInvalidArgument},
	types.ErrInvalidNetworkConfig:   {"", errdefs.ErrInvalidArgument},
	types.ErrTryAgainLater:          {"try again", errdefs.ErrUnavailable},
	types.ErrPluginNotAvailable:     {"", errdefs.ErrUnavailable},
	types.ErrLimitedConnectivity:    {"", errdefs.ErrUnavailable},
}

// explain names the network, the plugin (libcni does, for ADD and DEL), its
// message and its code.
func (p *Plugins) explain(ctx context.Context, what string, c Conf, err error) error {
	var coded *types.Error
	code := ""
	if errors.As(err, &coded) && coded.Code != 0 {
		code = fmt.Sprintf(" (CNI error %d)", coded.Code)
	}
	wrap := func(class error, hint string) error {
		err := fmt.Errorf("%s network %s: %w%s", what, c.Name, err, code)
		if class != nil {
			err = fmt.Errorf("%w: %w", err, class)
		}
		if hint == "" {
			hint = p.hint(c)
		}
		return network.WithHint(err, hint)
	}
	if err := ctx.Err(); err != nil {
		return wrap(errdefs.ErrUnavailable, fmt.Sprintf("its plugins took longer than %s", pluginTimeout))
	}
	text := strings.ToLower(err.Error())
	for _, k := range classes {
		if strings.Contains(text, k.says) {
			return wrap(k.class, k.hint)
		}
	}
	if strings.Contains(text, "failed to find plugin") {
		return wrap(errdefs.ErrFailedPrecondition, p.where())
	}
	if coded != nil {
		if k, ok := codes[coded.Code]; ok {
			return wrap(k.class, k.hint)
		}
	}
	return wrap(nil, "")
}

func (p *Plugins) hint(c Conf) string {
	if c.Path == "" {
		return p.where()
	}
	return fmt.Sprintf("the network is that of %s; %s", c.Path, p.where())
}

func (p *Plugins) where() string {
	return "CNI plugins are looked for in " + strings.Join(p.dirs, ", ")
}

// find says at once which programs are missing, and not only when one is run.
func (p *Plugins) find(c Conf) error {
	types, err := c.PluginTypes()
	if err != nil {
		return err
	}
	for _, t := range types {
		if _, err := p.exec.FindInPath(t, p.dirs); err != nil {
			return network.WithHint(
				fmt.Errorf("network %s: find CNI plugin %q: %w", c.Name, t, errdefs.ErrFailedPrecondition), p.where())
		}
	}
	return nil
}

func atLeast(list *libcni.NetworkConfigList, v string) bool {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, v)
	return ok && err == nil
}

func gcArgs(valid []Attachment) *libcni.GCArgs {
	args := &libcni.GCArgs{}
	for _, a := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return args
}
