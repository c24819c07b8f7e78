package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/ctrsnap/ctrsnap/cmd/internal/version"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

var _ server.Host = (*daemon)(nil)

// Version says who this daemon is and what it understands.
func (d *daemon) Version() api.Version {
	return api.Version{
		Schema: api.Schema, Version: version.Version, Commit: version.Commit,
		Protocol: api.Protocol, MinProtocol: api.MinProtocol,
		Containerd: d.containerd.Version(), Embedded: d.containerd.Embedded(),
	}
}

// Doctor looks at what clones depend on.
func (d *daemon) Doctor(ctx context.Context) api.Doctor {
	report := api.Doctor{Schema: api.Schema}
	report.Checks = append(d.checkStorage(ctx), d.checkContainerd(), d.checkRunc(ctx), d.checkNetwork(ctx), checkCgroups(), d.checkUsers(), d.checkGoldens(ctx))
	if d.names != nil {
		report.Checks = append(report.Checks, d.names.check(ctx))
	}
	return report
}

// checkStorage looks at the filesystem that holds the layers.
func (d *daemon) checkStorage(ctx context.Context) []api.Check {
	layers := d.storage
	if !d.containerd.Embedded() {
		root, err := d.containerd.SnapshotRoot(ctx)
		if err == nil {
			layers, err = storage.At(root)
		}
		if err != nil {
			return []api.Check{{Name: "storage", Status: "error", Detail: err.Error()}}
		}
	}
	var checks []api.Check
	for _, c := range layers.Checks() {
		checks = append(checks, api.Check(c))
	}
	return checks
}

func (d *daemon) checkContainerd() api.Check {
	c := api.Check{Name: "containerd", Status: "ok", Detail: d.containerd.Version() + " in process, socket " + d.containerd.Address()}
	if !d.containerd.Embedded() {
		c.Detail = d.containerd.Version() + " of the host at " + d.containerd.Address()
		c.Why = "it syncs its metadata at each change, which a clone then waits for"
	}
	return c
}

func (d *daemon) checkRunc(ctx context.Context) api.Check {
	c := api.Check{Name: "runc", Status: "error", Detail: "not found", Why: "it starts the containers", Fix: "install runc, or set containerd.runc"}
	path := d.runc()
	if path == "" {
		return c
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		c.Detail = fmt.Sprintf("%s: %v", path, err)
		return c
	}
	first, _, _ := strings.Cut(string(out), "\n")
	c.Status, c.Fix, c.Detail = "ok", "", fmt.Sprintf("%s at %s", first, path)
	if !strings.Contains(string(out), "libseccomp:") {
		c.Status, c.Why, c.Fix = "error", "clones run under a seccomp filter", "use a runc that is built with seccomp"
	}
	return c
}

func (d *daemon) checkNetwork(ctx context.Context) api.Check {
	c := api.Check{Name: "network", Status: "ok", Detail: fmt.Sprint(d.network)}
	if err := d.network.Verify(ctx); err != nil {
		c.Status, c.Why = "warning", err.Error()
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			c.Fix = hinted.Hint()
		}
	}
	return c
}

func checkCgroups() api.Check {
	c := api.Check{Name: "cgroups", Status: "ok", Detail: "v2"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		c.Detail = "v1"
	}
	return c
}
