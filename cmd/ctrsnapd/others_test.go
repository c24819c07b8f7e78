package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestOthers: two users of one group have each their own clones and goldens, and get
// at nothing of the other's, be it by the daemon or past it.
func TestOthers(t *testing.T) {
	t.Parallel()
	const ann, bob = 61001, 61002 // of no user
	d := newShop(t, "[api]\ngroup = 'nogroup'\n")
	if err := os.Chmod(d.work, 0o755); err != nil {
		t.Fatal(err)
	}
	d.run("golden", "build", "hidden", "--parent", "shop", "--mode", "0600")
	mustAs := func(uid uint32, args ...string) string {
		t.Helper()
		r := d.tryAs(uid, args...)
		if r.code != 0 {
			t.Fatalf("%v: %s", args, r.stderr)
		}
		return strings.TrimSpace(r.stdout)
	}
	var hers api.Clone
	if err := json.Unmarshal([]byte(mustAs(ann, "clone", "shop", "--name", "pr", "-o", "json")), &hers); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{hers.ID, "pr"} {
		for _, args := range [][]string{
			{"inspect", id}, {"rm", id}, {"logs", id}, {"extend", id, "--ttl", "2h"}, {"exec", id, "--", "id"}, {"net", "ls", id},
		} {
			r := d.tryAs(bob, args...)
			wantError(t, r, 3, "no clone")
			if strings.Contains(r.stderr, hers.Password) && hers.Password != "" {
				t.Errorf("%v tells the password", args)
			}
		}
	}
	if out := mustAs(bob, "ls", "-q"); out != "" {
		t.Errorf("bob lists %s", out)
	}
	mustAs(bob, "clone", "shop", "--name", "pr")
	for _, uid := range []uint32{ann, bob} {
		cat := exec.Command("stat", hers.Socket)
		cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: nogroup}}
		if out, err := cat.CombinedOutput(); (err == nil) != (uid == ann) {
			t.Errorf("the socket for %d: %s", uid, out)
		}
	}
	for _, args := range [][]string{{"clone", "hidden"}, {"golden", "inspect", "hidden"}, {"golden", "rm", "hidden"}, {"golden", "build", "x", "--parent", "hidden"}} {
		wantError(t, d.tryAs(bob, args...), 3, "not found")
	}
	wantError(t, d.tryAs(bob, "golden", "rm", "shop"), 6, "somebody else's")
	wantError(t, d.tryAs(bob, "pool", "set", "shop", "--size", "2"), 6, "somebody else's")
	d.run("golden", "access", "hidden", "--mode", "0644", "--owner", "61002")
	mustAs(bob, "clone", "hidden")
	d.restart(syscall.SIGKILL)
	if got := mustAs(ann, "ls", "-q"); got != hers.ID {
		t.Errorf("after a restart ann lists %s, not %s", got, hers.ID)
	}
	if got := d.run("ls", "-q"); strings.Count(got, "\n") != 2 {
		t.Errorf("root lists %s", got)
	}
	mustAs(ann, "rm", "pr")
	mustAs(bob, "rm", "--all")
}
