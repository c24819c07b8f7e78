package cgroup

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cpuPeriod is what CPU time is counted over, in microseconds.
const cpuPeriod = 100000

// SetLimits bounds memory in bytes, CPU time and the number of processes; what is 0 has no
// bound from then on. It is one write each: containerd's library takes as long as the
// rest of a container.
func (g *Group) SetLimits(memory int64, cpus float64, pids int64) error {
	values := limits1(memory, cpus, pids)
	if g.host.unified {
		values = limits2(memory, cpus, pids)
	}
	var errs []error
	for file, value := range values {
		errs = append(errs, write(g.file(file), value))
	}
	return errors.Join(errs...)
}

// file returns the path of HIERARCHY/NAME in the group.
func (g *Group) file(name string) string {
	hierarchy, base := filepath.Split(name)
	if g.host.unified {
		hierarchy = ""
	}
	return filepath.Join(g.host.root, hierarchy, g.path, base)
}

func limits1(memory int64, cpus float64, pids int64) map[string]string {
	quota := "-1"
	if cpus > 0 {
		quota = strconv.FormatInt(int64(cpus*cpuPeriod), 10)
	}
	return map[string]string{
		"memory/memory.limit_in_bytes": orElse(memory, "-1"),
		"cpu/cpu.cfs_quota_us":         quota, // the period is 100 ms unless told otherwise
		"pids/pids.max":                orElse(pids, "max"),
	}
}

func limits2(memory int64, cpus float64, pids int64) map[string]string {
	quota := "max"
	if cpus > 0 {
		quota = strconv.FormatInt(int64(cpus*cpuPeriod), 10)
	}
	return map[string]string{
		"memory.max": orElse(memory, "max"),
		"cpu.max":    quota + " " + strconv.Itoa(cpuPeriod),
		"pids.max":   orElse(pids, "max"),
	}
}

func orElse(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return strconv.FormatInt(n, 10)
}

// plain returns the limits that res has, if SetLimits can set all of them.
func plain(res *specs.LinuxResources) (memory int64, cpus float64, pids int64, ok bool) {
	if m := res.Memory; m != nil {
		if m.Limit == nil || *m != (specs.LinuxMemory{Limit: m.Limit}) {
			return 0, 0, 0, false
		}
		memory = *m.Limit
	}
	if c := res.CPU; c != nil {
		if c.Quota == nil || c.Period == nil || *c.Period != cpuPeriod || *c != (specs.LinuxCPU{Quota: c.Quota, Period: c.Period}) {
			return 0, 0, 0, false
		}
		cpus = float64(*c.Quota) / cpuPeriod
	}
	if p := res.Pids; p != nil {
		if p.Limit == nil {
			return 0, 0, 0, false
		}
		pids = *p.Limit
	}
	return memory, cpus, pids, res.BlockIO == nil
}

// setNew sets the limits of a group that was just made: it has none.
func (g *Group) setNew(memory int64, cpus float64, pids int64) error {
	values := limits1(memory, cpus, pids)
	for file, set := range map[string]bool{"memory/memory.limit_in_bytes": memory > 0, "cpu/cpu.cfs_quota_us": cpus > 0, "pids/pids.max": pids > 0} {
		if !set {
			continue
		}
		if err := write(g.file(file), values[file]); err != nil {
			return err
		}
	}
	return nil
}
