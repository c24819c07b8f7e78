package main_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// census lists what there is of a daemon and its clones, by kind.
type census map[string][]string

// takeCensus looks at the host, and asks the daemon's containerd if it runs.
func (d *daemon) takeCensus(ctx context.Context) census {
	d.t.Helper()
	c := census{}
	for kind, script := range map[string]string{
		"mounts":     `grep -F -e "$WORK" -e "$STATE" /proc/self/mountinfo | cut -d' ' -f5 | sed 's:/n[a-z2-7]\{11\}$:/spare:'`,
		"loops":      `losetup -lnO NAME,BACK-FILE | grep -F "$WORK"`,
		"interfaces": `ip -o link show master "$BRIDGE" 2>/dev/null | cut -d: -f2; ip -d -o link | grep -o 'alias ctrsnap.*' | grep -F "$STATE"`,
		"processes":  `cat $(find /sys/fs/cgroup$CGROUP /sys/fs/cgroup/*$CGROUP -name cgroup.procs 2>/dev/null) /dev/null | sort -u`,
		"shims":      `pgrep -af -- "-address $STATE/containerd.sock"`,
		"cgroups":    `find /sys/fs/cgroup$CGROUP /sys/fs/cgroup/*$CGROUP -mindepth 1 -type d 2>/dev/null`,
		"nft":        `nft list tables 2>/dev/null | grep -o 'ctrsnap-.*' | sort -u | while read t; do nft list table inet $t; nft list table netdev $t; done 2>/dev/null | grep -F "$BRIDGE"`,
	} {
		cmd := exec.CommandContext(ctx, "sh", "-c", script)
		cmd.Env = append(os.Environ(), "WORK="+d.work, "STATE="+d.state, "BRIDGE="+d.bridge, "CGROUP="+d.cgroup())
		out, _ := cmd.Output()
		c[kind] = nonEmpty(strings.Split(string(out), "\n"))
	}
	snapshotter := filepath.Join(d.work, "root/storage/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots")
	for kind, globs := range map[string][]string{
		"netns":     {d.state + "/netns/*", d.state + "/networks/*/netns/*"},
		"addresses": {d.state + "/lease/*", d.state + "/networks/*/ipam/*/[0-9]*", d.state + "/pool/*/*", d.state + "/networks/*/pool/*/*", d.state + "/networks/*/cache/*/*"},
		"directories": {
			d.state + "/clones/*", d.state + "/builds/*", d.state + "/runc/*/*", d.state + "/fifo/*", d.state + "/attach/records/*", d.state + "/publish/*.json", d.state + "/containerd/s/*", d.work + "/root/storage/spool/*",
			d.state + "/containerd/io.containerd.runtime.v2.task/*/*", d.work + "/root/storage/containerd/io.containerd.runtime.v2.task/*/*", d.work + "/root/storage/logs/c*.log",
		},
		"snapshot_directories": {snapshotter + "/*"},
	} {
		c[kind] = []string{}
		for _, g := range globs {
			paths, _ := filepath.Glob(g)
			c[kind] = append(c[kind], paths...)
		}
	}
	d.askContainerd(ctx, c)
	return c
}

// askContainerd lists what is recorded.
func (d *daemon) askContainerd(ctx context.Context, c census) {
	sock := filepath.Join(d.state, "containerd.sock")
	if _, err := os.Stat(sock); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, "ctrsnap"), 20*time.Second)
	defer cancel()
	ctrd, err := containerd.New(sock, containerd.WithTimeout(5*time.Second))
	if err != nil {
		return
	}
	defer ctrd.Close()
	containers, _ := ctrd.ContainerService().List(ctx)
	for _, x := range containers {
		c["containers"] = append(c["containers"], x.ID)
	}
	sandboxes, _ := ctrd.SandboxStore().List(ctx)
	for _, x := range sandboxes {
		c["sandboxes"] = append(c["sandboxes"], x.ID)
	}
	leases, _ := ctrd.LeasesService().List(ctx)
	for _, x := range leases {
		c["leases"] = append(c["leases"], x.ID)
	}
	_ = ctrd.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		c["snapshots"] = append(c["snapshots"], i.Name)
		return nil
	})
	_ = ctrd.ContentStore().Walk(ctx, func(i content.Info) error {
		c["content"] = append(c["content"], i.Digest.String())
		return nil
	})
	// A golden has a snapshot, and two documents that describe it.
	goldens, _ := client.Do(ctx, d.client, api.ListGoldens, api.ListGoldensArgs{})
	c["snapshots"] = c["snapshots"][min(len(goldens), len(c["snapshots"])):]
	c["snapshot_directories"] = c["snapshot_directories"][min(len(goldens), len(c["snapshot_directories"])):]
	c["content"] = c["content"][min(2*len(goldens), len(c["content"])):]
}

// leaks waits until there is no more than before, and returns by kind how much more there
// is for good.
func (d *daemon) leaks(ctx context.Context, before census) map[string]int {
	d.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for {
		now := d.takeCensus(ctx)
		more := map[string]int{}
		sum := 0
		for kind, list := range now {
			more[kind] = max(0, len(list)-len(before[kind]))
			sum += more[kind]
		}
		if sum == 0 || time.Now().After(deadline) {
			for kind, n := range more {
				if n > 0 {
					d.t.Errorf("leaked %d %s:\n%s\nbefore:\n%s", n, kind, strings.Join(now[kind], "\n"), strings.Join(before[kind], "\n"))
				}
			}
			return more
		}
		<-time.After(200 * time.Millisecond)
	}
}

func nonEmpty(list []string) []string {
	some := []string{}
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			some = append(some, s)
		}
	}
	return some
}
