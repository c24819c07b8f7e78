package peer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// host is the PostgreSQL of this host, to be run as nobody with data from initdb.
func host(t *testing.T) (o Original, login Endpoint) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 || os.Getuid() != 0 {
		t.Skip("needs root and a PostgreSQL in /usr/lib/postgresql")
	}
	o = Original{
		Args: []string{found[len(found)-1], "-D", "/data", "-c", "unix_socket_directories=/s", "-c", "port=1", "-c", "listen_addresses=", "-c", "hba_file=/hba",
			"-c", "fsync=off", "-c", "shared_buffers=8MB"},
		Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}, UID: 65534, GID: 65534, DataDir: "/data", HBA: []byte("local all all trust\n"),
	}
	o.Program = o.Args[0]
	return o, Endpoint{User: "postgres", Database: "app"}
}

// place is where nobody may have servers: the test's own directories are root's alone.
func place(t *testing.T) Place {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer") //nolint:usetesting // see above, and the path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := Place{Data: filepath.Join(dir, "d"), Sockets: filepath.Join(dir, "s")}
	for _, d := range []string{dir, p.Data, p.Sockets} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

const rows = "CREATE TABLE customers (id int); INSERT INTO customers SELECT generate_series(1, 10);\n"

// get takes a database, checks its rows, writes to it and drops it.
func get(ctx context.Context, t *testing.T, p Peer) {
	t.Helper()
	at, drop, err := p.Get(ctx)
	if err != nil {
		t.Fatalf("%s: %v", p.Name(), err)
	}
	if err := at.Want(ctx, "SELECT count(*) FROM customers", "10"); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
	if _, err := at.Value(ctx, "DELETE FROM customers"); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
	if err := drop(ctx); err != nil {
		t.Errorf("%s: drop: %v", p.Name(), err)
	}
	if err := at.Answer(ctx); err == nil {
		t.Errorf("%s: it answers after it was dropped", p.Name())
	}
}

// Every way hands out databases that have the rows, and not what was done to
// another one.
func TestWaysToGetADatabase(t *testing.T) {
	o, login := host(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	at := place(t)
	script := filepath.Join(at.Data, "rows.sql")
	if err := os.WriteFile(script, []byte(rows), 0o600); err != nil {
		t.Fatal(err)
	}
	initdb, err := NewInitdb(o, login, at, script)
	if err != nil {
		t.Fatal(err)
	}
	get(ctx, t, initdb)

	// One server that runs, with the same data, for all that copy inside a server.
	data, sockets := at.next("shared")
	b, err := initdb.o.Prepare(data, sockets, initdb.login)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if b.Endpoint, err = initdb.after(ctx, b); err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(at.Data, "rows.dump")
	if err := Dump(ctx, b, "custom", dump); err != nil {
		t.Fatal(err)
	}
	restore, err := NewRestore(ctx, b, dump)
	if err != nil {
		t.Fatal(err)
	}
	template, err := NewTemplate(ctx, b, "FILE_COPY")
	if err != nil {
		t.Fatal(err)
	}
	ahead, err := NewAhead(ctx, b, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Peer{restore, template, NewPerHash(b), ahead} {
		get(ctx, t, p)
		get(ctx, t, p)
		if err := p.Close(ctx); err != nil {
			t.Errorf("%s: close: %v", p.Name(), err)
		}
	}
	if err := b.Want(ctx, "SELECT count(*) FROM pg_database", "4"); err != nil { // its own, and three of initdb
		t.Errorf("left behind: %v", err)
	}

	// A server for each, on a copy of all bytes of one that has ended.
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	o.Golden = filepath.Join(data, "data")
	get(ctx, t, NewCopy(o, login, at))
	if left, err := filepath.Glob(filepath.Join(at.Data, "peer-[ci]*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWhatIsNotHereIsSaid(t *testing.T) {
	if _, err := NewContainer(t.Context(), filepath.Join(t.TempDir(), "docker"), 1, Original{}, Endpoint{}, Place{}); !errors.Is(err, ErrNotHere) {
		t.Errorf("got %v", err)
	}
	if _, err := NewInitdb(Original{Args: []string{filepath.Join(t.TempDir(), "postgres")}}, Endpoint{}, Place{}, ""); !errors.Is(err, ErrNotHere) {
		t.Errorf("got %v", err)
	}
}

// An image is made of files that belong to those to whom they belong in the clone.
func TestSeenFromTheUserNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a user namespace with others' IDs")
	}
	file := filepath.Join(place(t).Data, "f")
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Chown(file, 100_005, 100_006)); err != nil {
		t.Fatal(err)
	}
	clone := exec.Command("sleep", "60")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100_000, Size: 10}}
	clone.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	if err := clone.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(clone.Process.Kill(), clone.Wait()) }()
	for pid, want := range map[int]string{clone.Process.Pid: "5:6\n", os.Getpid(): "100005:100006\n"} {
		out, err := seenFrom(t.Context(), pid, "stat", "--format=%u:%g", file).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("by %d: got %s, %v", pid, out, err)
		}
	}
}

func TestReasonOfAnEngine(t *testing.T) {
	for out, want := range map[string]string{
		"Client:\n Context: default\n\nServer:\nERROR: Cannot connect to the Docker daemon\nerrors pretty printing info\n": "ERROR: Cannot connect to the Docker daemon",
		"Server:\nCannot connect to the Docker daemon":                                                                     "Cannot connect to the Docker daemon", "": "",
	} {
		if got := reason(out); got != want {
			t.Errorf("%q: got %q", out, got)
		}
	}
}
