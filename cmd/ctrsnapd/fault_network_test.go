package main_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Failpoints of a clone that is published and attached to a further network, when it is made and when it goes.
var (
	netPoints    = []string{"publish.record", "publish.recorded", "publish.published", "attach.recorded", "attach.attached", "clone.attached"}
	netEndPoints = []string{"publish.remove", "publish.removed", "attach.detached"}
)

// faultNetwork has each step of publishing and attaching fail, and the daemon die there: nothing of the clone is
// left when it is made, and when it goes it is either gone or as it was.
func faultNetwork(t *testing.T, d *daemon) {
	defer d.restart(syscall.SIGTERM)
	clone := []string{"clone", "shop", "--name", "failed", "--publish", "127.0.0.1:0", "--network", "type=ptp,ip=10.97.45.2/30"}
	for _, point := range netPoints {
		for _, action := range []string{"error", "kill"} {
			d.launchAt(t, point, action)
			if r := d.try(nil, clone...); r.code != 1 || r.stdout != "" || action == "error" && !strings.Contains(r.stderr, "injected") {
				t.Errorf("%s=%s: exit code %d, stdout %q: %s", point, action, r.code, r.stdout, r.stderr)
			}
			if action == "kill" {
				d.restart(syscall.SIGKILL)
			}
			wantNoPorts(t, d, point+"="+action)
		}
	}
	for _, point := range netEndPoints {
		for _, action := range []string{"error", "kill"} {
			d.run(clone...)
			d.launchAt(t, point, action)
			_ = d.try(nil, "rm", "failed")
			d.restart(syscall.SIGKILL)
			if strings.Contains(d.run("ls", "--format", "{{.name}}"), "failed") { // nobody was told that it is gone
				query(t, d.run("inspect", "failed", "--format", "{{.urls.published}}"), "SELECT 1")
				d.run("rm", "failed")
			}
			wantNoPorts(t, d, point+"="+action)
		}
	}
}

// launchAt starts the daemon anew with a failpoint.
func (d *daemon) launchAt(t *testing.T, point, action string) {
	t.Helper()
	d.stop(syscall.SIGTERM)
	if err := d.launch("CTRSNAPD_FAILPOINT=" + point + "=" + action); err != nil {
		t.Fatal(err)
	}
}

// wantNoPorts waits until no clone has a port of the host or a further interface, or anything without a clone.
func wantNoPorts(t *testing.T, d *daemon, when string) {
	t.Helper()
	waitFor(t, "ports, interfaces and orphans to be gone after "+when, func() bool {
		records, _ := filepath.Glob(filepath.Join(d.state, "publish/*.json"))
		more, _ := filepath.Glob(filepath.Join(d.state, "attach/records/*"))
		return len(records)+len(more)+len(d.orphans("--dry-run")) == 0
	})
	if got := d.run("ls", "--format", "{{.name}}"); got != "other" {
		t.Errorf("%s: listed are %q", when, got)
	}
}
