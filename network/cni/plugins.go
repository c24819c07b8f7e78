package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/ctrsnap/ctrsnap/network/flannel"
)

// pluginTimeout bounds one operation of all plugins of a network.
const pluginTimeout = 30 * time.Second

// DefaultBinDirs are where distributions and the plugins' releases put them.
var DefaultBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// Plugins runs CNI plugins. They are not interrupted by a canceled request: it
// would leave what they had made to nobody. It is safe for concurrent use.
type Plugins struct {
	cni  *libcni.CNIConfig
	exec invoke.Exec
	dirs []string
}

// NewPlugins looks for programs in binDirs, or [DefaultBinDirs] if there are
// none, and has libcni keep its records in cacheDir.
func NewPlugins(cacheDir string, binDirs []string) *Plugins {
	if len(binDirs) == 0 {
		binDirs = DefaultBinDirs
	}
	exec := flannel.Exec{Exec: &invoke.DefaultExec{RawExec: &invoke.RawExec{}}}
	return &Plugins{libcni.NewCNIConfigWithCacheDir(binDirs, cacheDir, exec), exec, binDirs}
}

// Attachment is an interface of a container.
type Attachment struct {
	ContainerID string
	NetNS       string // path of the namespace; "" when it is gone
	IfName      string
	Args        [][2]string // CNI_ARGS
}

func (a Attachment) conf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: a.NetNS, IfName: a.IfName, Args: a.Args}
}

func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
}

// Add attaches an interface. What an error leaves behind is Del's.
func (p *Plugins) Add(ctx context.Context, c Conf, a Attachment) (*types100.Result, error) {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	list, err := c.current()
	if err != nil {
		return nil, err
	}
	r, err := p.cni.AddNetworkList(ctx, list, a.conf())
	if err != nil {
		err = p.explain(ctx, "attach "+a.ContainerID+" to", c, err)
		if missing := missingMaster(list); missing != nil {
			err = fmt.Errorf("%w: %w", missing, err)
		}
		return nil, err
	}
	result, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("attach %s to network %s: read result: %w", a.ContainerID, c.Name, err)
	}
	return result, nil
}

// Del takes an interface back, by the configuration that it was attached with:
// the one in the file may have changed. It is idempotent.
func (p *Plugins) Del(ctx context.Context, c Conf, a Attachment) error {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	list, err := c.current()
	if err != nil {
		return err
	}
	rt := a.conf()
	if doc, kept, err := p.cni.GetNetworkListCachedConfig(list, rt); err == nil && doc != nil {
		if was, err := libcni.NetworkConfFromBytes(doc); err == nil {
			list, rt = was, kept
		}
	}
	if err := p.cni.DelNetworkList(ctx, list, rt); err != nil {
		return p.explain(ctx, "detach "+a.ContainerID+" from", c, err)
	}
	return nil
}

// Check has plugins look at an interface; those of before version 0.4.0 of the
// specification cannot, and find everything right.
func (p *Plugins) Check(ctx context.Context, c Conf, a Attachment) error {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	list, err := c.current()
	if err != nil {
		return err
	}
	if !atLeast(list, "0.4.0") {
		return nil
	}
	if err := p.cni.CheckNetworkList(ctx, list, a.conf()); err != nil {
		return p.explain(ctx, "check "+a.ContainerID+" on", c, err)
	}
	return nil
}

// Status asks plugins whether they can add interfaces, and looks for what they
// need. Those of before version 1.1.0 of the specification do not say.
func (p *Plugins) Status(ctx context.Context, c Conf) error {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	if err := p.find(c); err != nil {
		return err
	}
	for _, l := range c.leases {
		if _, err := l.Current(); err != nil {
			return fmt.Errorf("status of network %s: %w", c.Name, err)
		}
	}
	list, err := c.current()
	if err != nil {
		return err
	}
	if err := missingMaster(list); err != nil {
		return err
	}
	if err := p.cni.GetStatusNetworkList(ctx, list); err != nil {
		return p.explain(ctx, "status of", c, err)
	}
	return nil
}

// Collect has plugins free what they keep for others than the given
// attachments. Nothing may be attached meanwhile. A shared network is left
// alone: others have attachments there.
func (p *Plugins) Collect(ctx context.Context, c Conf, valid []Attachment) error {
	list, err := c.current()
	if err != nil || c.Shared {
		return err
	}
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	if err := p.cni.GCNetworkList(ctx, list, gcArgs(valid)); err != nil {
		return p.explain(ctx, "collect garbage of", c, err)
	}
	return nil
}

// current says whether an interface was attached by the configuration as it is
// now; an interface that libcni has no record of was not.
func (p *Plugins) current(c Conf, a Attachment) bool {
	list, err := c.current()
	if err != nil {
		return false
	}
	doc, _, err := p.cni.GetNetworkListCachedConfig(list, a.conf())
	return err == nil && bytes.Equal(doc, list.Bytes)
}

// attachments lists what libcni has records of, for one container or, with "",
// for all.
func (p *Plugins) attachments(container string) ([]*libcni.NetworkAttachment, error) {
	list, err := p.cni.GetCachedAttachments(container)
	if err != nil {
		return nil, fmt.Errorf("list CNI attachments: %w", err)
	}
	return list, nil
}

// forget takes back what is recorded of a container, whatever network it is of:
// one that is configured no more, too. An empty path says that its namespace is gone.
func (p *Plugins) forget(ctx context.Context, container, path string) error {
	list, err := p.attachments(container)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range list {
		was, err := libcni.NetworkConfFromBytes(a.Config)
		if err == nil {
			err = p.Del(ctx, Conf{Name: a.Network, list: was}, Attachment{container, path, a.IfName, a.CniArgs})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
