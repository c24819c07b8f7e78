package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// allowed are the devices that every container has, those of runc: any node may
// be made, and a few may be used.
var allowed = []string{
	"b *:* m", "c *:* m",
	"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", // null, zero, full, random, urandom, tty
	"c 5:2 rwm", "c 10:200 rwm", "c 136:* rwm", // ptmx, net/tun, terminals
}

// allowDevices denies all devices but those.
func allowDevices(dir string) error {
	if err := write(filepath.Join(dir, "devices.deny"), "a"); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "devices.allow"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, rule := range allowed {
		if _, err := f.WriteString(rule); err != nil {
			return err
		}
	}
	return nil
}

// createUnified makes a group of version 2, where devices are guarded by a program.
func (g *Group) createUnified(res *specs.LinuxResources) error {
	limits := specs.LinuxResources{}
	if res != nil {
		limits = *res
	}
	r := cgroup2.ToResources(&limits)
	r.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	for _, rule := range allowed {
		d, err := parseRule(rule)
		if err != nil {
			return err
		}
		r.Devices = append(r.Devices, d)
	}
	m, err := cgroup2.NewManager(g.host.root, g.path, r)
	if err != nil {
		return err
	}
	all, err := m.RootControllers()
	if err != nil {
		return err
	}
	return m.ToggleControllers(all, cgroup2.Enable) // so that memory is counted
}

func parseRule(s string) (d specs.LinuxDeviceCgroup, err error) {
	var major, minor string
	var kind, numbers string
	if _, err = fmt.Sscan(s, &kind, &numbers, &d.Access); err != nil {
		return d, err
	}
	d.Allow, d.Type = true, kind
	for i := range numbers {
		if numbers[i] == ':' {
			major, minor = numbers[:i], numbers[i+1:]
		}
	}
	d.Major, d.Minor = number(major), number(minor)
	return d, nil
}

// number returns nil for a wildcard.
func number(s string) *int64 {
	var n int64
	if _, err := fmt.Sscan(s, &n); err != nil {
		return nil
	}
	return &n
}
