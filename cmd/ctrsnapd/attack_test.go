package main_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAttack… are attacks of ordinary users on the daemon, on each other and on the host. alice and bob are in the group of
// the daemon, carol is in none, and nobody is an administrator. Each attack succeeds where nothing stops it, so far as that
// can be shown, and says why it fails.
const (
	alice, bob, carol = 51001, 51002, 51003
	outside           = 51003 // carol's group
)

// newTarget starts a daemon that is to be attacked, of which an administrator has built the golden shop.
func newTarget(t *testing.T, configuration string) *daemon {
	t.Helper()
	d := newDaemon(t, "[api]\ngroup = 'nogroup'\n[pool]\nauto = false\n"+configuration)
	if err := os.Chmod(d.work, 0o755); err != nil {
		t.Fatal(err)
	}
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	return d
}

// fails says that an attack has come to nothing, and why: `make attack` shows it.
func fails(t *testing.T, attack, reason string) {
	t.Helper()
	line, _, _ := strings.Cut(reason[max(0, strings.Index(reason, "ctrsnap: ")):], "\n")
	fmt.Printf("attack: %s: %s: it fails: %s\n", t.Name(), attack, line)
}

// asUser runs a program as a user of the host, with files from descriptor 3 on.
func asUser(t *testing.T, uid, gid uint32, files []*os.File, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// wantDenied wants a program of an attacker to fail for a reason.
func wantDenied(t *testing.T, attack, reason, out string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(out, reason) {
		t.Errorf("%s: %v\n%s", attack, err, out)
		return
	}
	fails(t, attack, out)
}
