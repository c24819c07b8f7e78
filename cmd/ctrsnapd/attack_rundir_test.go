package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestAttackSocketDirectory: alice would have the daemon, and the shim, find something else where her clone's socket is, and bob
// would use her socket. Both are let in where they own a clone, and only there.
func TestAttackSocketDirectory(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ctrsnap", "runc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSocketDirectory(t, newTarget(t, fmt.Sprintf("[containerd]\nruntime = %q\n", name)))
		})
	}
}

func testSocketDirectory(t *testing.T, d *daemon) {
	c := cloneAs(t, d, alice)
	dir := filepath.Join(d.state, "clones", c.ID)
	connect := func() error {
		conn, err := net.Dial("unix", c.Socket)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	if err := asThread(alice, nogroup, connect); err != nil {
		t.Errorf("alice does not get to her own socket: %v", err)
	}
	for what, do := range map[string]func() error{
		"rename what will be mounted": func() error { return os.Rename(dir+"/s", dir+"/o") },
		"put a link beside it":        func() error { return os.Symlink("/", dir+"/o") },
		"give the directory rights":   func() error { return os.Chmod(dir, 0o777) },
		"give bob rights":             func() error { return unix.Setxattr(dir, "system.posix_acl_access", []byte{2, 0, 0, 0}, 0) },
		"write beside the socket":     func() error { return os.WriteFile(dir+"/s/x", nil, 0o600) },
		"list all clones":             func() error { _, err := os.ReadDir(filepath.Dir(dir)); return err },
	} {
		denied(t, "alice: "+what, asThread(alice, nogroup, do))
	}
	denied(t, "bob: connect to alice's socket", asThread(bob, nogroup, connect))
	denied(t, "carol: connect to alice's socket", asThread(carol, outside, connect))
	if r := d.tryAs(alice, "rm", c.ID); r.code != 0 {
		t.Errorf("rm: %s", r.stderr)
	}
	waitFor(t, "the clone's directory to go", func() bool { _, err := os.Lstat(dir); return errors.Is(err, fs.ErrNotExist) })
}

// TestAttackSocketRoom: alice fills the memory that sockets lie in, with bytes and with files. Her own clone goes without, and bob
// notices nothing.
func TestAttackSocketRoom(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "")
	c := cloneAs(t, d, alice)
	for what, statement := range map[string]string{
		"bytes":          "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 2000)) TO '/ctrsnap/run/x'",
		"a removed file": "COPY (SELECT) TO PROGRAM 'exec 3>/ctrsnap/run/y; rm /ctrsnap/run/y; head -c 80M /dev/zero >&3'",
		"files":          "COPY (SELECT) TO PROGRAM 'for i in $(seq 1000); do : >/ctrsnap/run/f$i || exit 1; done'",
		"directories":    "COPY (SELECT) TO PROGRAM 'for i in $(seq 1000); do mkdir /ctrsnap/run/d$i || exit 1; done'",
	} {
		_, err := tryQuery(c.URL, statement)
		if err == nil {
			t.Errorf("alice fills it with %s", what)
			continue
		}
		fails(t, "alice: fill it with "+what, err.Error())
		var own syscall.Statfs_t
		do(t, syscall.Statfs(filepath.Dir(c.Socket), &own))
		if what != "a removed file" && own.Bfree > 0 && own.Ffree > 0 {
			t.Errorf("the attack with %s itself is wrong: it was not full: %+v", what, own)
		}
		other := cloneAs(t, d, bob)
		if got := query(t, other.URLs["socket"], "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("bob's clone beside %s: %s rows", what, got)
		}
		if r := d.tryAs(bob, "rm", other.ID); r.code != 0 {
			t.Errorf("rm: %s", r.stderr)
		}
		_, _ = tryQuery(c.URL, "COPY (SELECT) TO PROGRAM 'rm -rf /ctrsnap/run/[xyfd]*'")
	}
	var all syscall.Statfs_t
	do(t, syscall.Statfs(filepath.Join(d.state, "clones"), &all))
	if held := (all.Blocks - all.Bfree) * uint64(all.Bsize); held > 64<<10 {
		t.Errorf("what all clones share holds %d bytes", held)
	}
	if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("alice's clone: %s rows", got)
	}
}

// TestAttackBuild: alice and carol would read and change bob's golden while it is built.
func TestAttackBuild(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "")
	home := filepath.Join(d.work, "bob")
	do(t, os.Mkdir(home, 0o755))
	do(t, os.Chown(home, bob, nogroup))
	gate := filepath.Join(home, "gate")
	do(t, unix.Mkfifo(gate, 0o600))
	do(t, os.Chown(gate, bob, nogroup))
	built := make(chan result, 1)
	go func() {
		built <- d.tryAs(bob, "golden", "build", "private", "--parent=shop", "--mode", "0600",
			"--exec", "echo $PGHOST $PGPORT $PGUSER $PGDATABASE >"+home+"/where.new && mv "+home+"/where.new "+home+"/where && cat "+gate)
	}()
	where := filepath.Join(home, "where")
	waitFor(t, "the build to be under way", func() bool { _, err := os.Stat(where); return err == nil || len(built) > 0 })
	builds, err := os.ReadDir(filepath.Join(d.state, "builds"))
	if err != nil || len(builds) != 1 {
		t.Fatalf("builds under way: %v, %v", builds, err)
	}
	dir := filepath.Join(d.state, "builds", builds[0].Name()) // its name is no secret: cgroups and mounts have it
	sockets, err := filepath.Glob(dir + "/s/.s.PGSQL.*[0-9]")
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets of the build: %v, %v", sockets, err)
	}
	for who, id := range map[string][2]uint32{"alice": {alice, nogroup}, "bob, whose build it is": {bob, nogroup}, "carol": {carol, outside}} {
		denied(t, who+": connect to the build's socket", asThread(int(id[0]), int(id[1]), func() error {
			conn, err := net.Dial("unix", sockets[0])
			if err == nil {
				err = conn.Close()
			}
			return err
		}))
		denied(t, who+": read the root filesystem of the build", asThread(int(id[0]), int(id[1]), func() error { _, err := os.ReadDir(dir + "/mnt/root"); return err }))
	}
	var at [4]string
	_, err = fmt.Sscan(string(mustRead(t, where)), &at[0], &at[1], &at[2], &at[3])
	do(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%s user=%s dbname=%s password=guess sslmode=disable", at[0], at[1], at[2], at[3]))
	do(t, err)
	if conn, err := pgconn.ConnectConfig(ctx, config); err == nil {
		t.Error("anybody connects to the build's address")
		_ = conn.Close(ctx)
	} else if !strings.Contains(err.Error(), "password authentication failed") {
		t.Error(err)
	} else {
		fails(t, "carol: connect to the build's address", err.Error())
	}
	do(t, os.WriteFile(gate, nil, 0)) // it ends cat
	if r := <-built; r.code != 0 {
		t.Errorf("bob's build: %s", r.stderr)
	}
	wantError(t, d.tryAs(alice, "clone", "private"), 3, "private")
}

// cloneAs makes a clone of shop as a user.
func cloneAs(t *testing.T, d *daemon, uid uint32) (c api.Clone) {
	t.Helper()
	r := d.tryAs(uid, "clone", "shop", "-o", "json")
	if r.code != 0 {
		t.Fatalf("clone: %s", r.stderr)
	}
	do(t, json.Unmarshal([]byte(r.stdout), &c))
	return c
}

// denied wants what an attacker tries to be refused for want of a right.
func denied(t *testing.T, attack string, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%s: %v", attack, err)
		return
	}
	fails(t, attack, err.Error())
}

// asThread runs fn with the rights of a user of the host. The thread ends with the goroutine.
func asThread(uid, gid int, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		for _, call := range [][4]uintptr{
			{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
		} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				done <- fmt.Errorf("become %d: %w", uid, errno)
				return
			}
		}
		done <- fn()
	}()
	return <-done
}
