package config

import (
	"errors"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
)

// Bounds are limits of one clone; 0 is none.
type Bounds struct {
	Memory      Size    `toml:"memory" comment:"as in \"2GiB\"; what needs more is killed"`
	CPUs        float64 `toml:"cpus" comment:"CPU time, as in 1.5"`
	Pids        int64   `toml:"pids" comment:"processes and threads"`
	Disk        Size    `toml:"disk" comment:"of its own: what it shares with its golden does not count; a clone beyond it is stopped"`
	Connections int     `toml:"connections" comment:"to its server at a time"`
}

// Quota bounds clones together; 0 is no bound.
type Quota struct {
	Clones int  `toml:"clones" comment:"how many"`
	Memory Size `toml:"memory" comment:"their limits, or what those without one use"`
	Disk   Size `toml:"disk" comment:"what they hold of their own"`
}

// Limits bound all clones of a user, and of all.
type Limits struct {
	User Quota `toml:"user" comment:"of each user but administrators"`
	All  Quota `toml:"all" comment:"of all together"`
}

// Limits returns them as the API has them.
func (b Bounds) Limits() api.Limits {
	return api.Limits{MemoryBytes: int64(b.Memory), CPUs: b.CPUs, Pids: b.Pids, DiskBytes: int64(b.Disk), Connections: b.Connections}
}

// Bounds returns them as quotas have them.
func (q Quota) Bounds() quota.Bounds {
	return quota.Bounds{Clones: q.Clones, Memory: int64(q.Memory), Disk: int64(q.Disk)}
}

func (b Bounds) validate() error {
	if b.CPUs < 0 || b.Pids < 0 || b.Connections < 0 {
		return errors.New("must not be negative")
	}
	return nil
}

func (q Quota) validate() error {
	if q.Clones < 0 {
		return errors.New("must not be negative")
	}
	return nil
}
