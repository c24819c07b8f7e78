package main

import (
	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
)

// limits are what the configuration says, completed by what there is.
func (d *daemon) limits() manager.Limits {
	l := manager.Limits{
		Clone: bounds(d.cfg.Clone.Limits), Most: bounds(d.cfg.Clone.Max),
		User: together(d.cfg.Limits.User), All: together(d.cfg.Limits.All),
	}
	if s, err := d.space(); err == nil && l.Clone.DiskBytes == 0 {
		l.Clone.DiskBytes = s.Size / 4
	}
	return l
}

func bounds(b config.Bounds) api.Limits {
	return api.Limits{MemoryBytes: int64(b.Memory), CPUs: b.CPUs, Pids: b.Pids, DiskBytes: int64(b.Disk), Connections: b.Connections}
}

func together(q config.Quota) quota.Bounds {
	return quota.Bounds{Clones: q.Clones, Memory: int64(q.Memory), Disk: int64(q.Disk)}
}

// space looks at the filesystem that holds the layers.
func (d *daemon) space() (patrol.Space, error) {
	return host.Space(d.storage, int64(d.cfg.Storage.Reserve))
}
