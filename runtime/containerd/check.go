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
