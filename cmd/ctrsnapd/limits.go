package main

import (
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
)

// limits are what the configuration says, completed by what there is.
func (d *daemon) limits() manager.Limits {
	l := manager.Limits{
		Clone: d.cfg.Clone.Limits.Limits(), Most: d.cfg.Clone.Max.Limits(),
		User: d.cfg.Limits.User.Bounds(), All: d.cfg.Limits.All.Bounds(),
	}
	if s, err := d.space(); err == nil && l.Clone.DiskBytes == 0 {
		l.Clone.DiskBytes = s.Size / 4
	}
	return l
}

// space looks at the filesystem that holds the layers.
func (d *daemon) space() (patrol.Space, error) {
	return host.Space(d.storage, int64(d.cfg.Storage.Reserve))
}

// pool says how many clones the manager makes ahead.
func (d *daemon) pool() manager.Pool {
	c := d.cfg.Pool
	p := manager.Pool{Size: c.Size, Auto: c.Auto, Max: c.Max, Parallel: c.Parallel, Memory: int64(c.Memory), Sizes: d.store}
	if p.Memory == 0 {
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) == nil {
			p.Memory = int64(info.Totalram) * int64(info.Unit) / 4
		}
	}
	return p
}
