package containerd

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// CheckRunc looks at the runc at path, which is "" where there is none.
func CheckRunc(path string) func(context.Context) api.Check {
	return func(ctx context.Context) api.Check {
		c := api.Check{Name: "runc", Status: "error", Detail: "not found", Why: "it starts the containers", Fix: "install runc, or set containerd.runc"}
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
}

// CheckUsers tells who the users of clones are on this host, or why not: without says so where m is nil.
func CheckUsers(m *Mapped, without error) func(context.Context) api.Check {
	return func(context.Context) api.Check {
		if m != nil {
			return api.Check{Name: "user namespaces", Status: "ok", Detail: m.String()}
		}
		return api.Check{
			Name: "user namespaces", Status: "warning", Detail: fmt.Sprintf("none: %v", without),
			Why: "users of clones have numbers of this host's users",
			Fix: "they take Linux 6.3 and layers on XFS, Btrfs or ext4",
		}
	}
}
