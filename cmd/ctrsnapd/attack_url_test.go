package main_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAttackURL: alice has the daemon dump what she does not reach: services of the host, of its cloud, and clones of others.
func TestAttackURL(t *testing.T) {
	t.Parallel()
	d, host, beyond := newEgressHost(t, "[api]\ngroup = 'nogroup'\n[pool]\nauto = false\n")
	do(t, os.Chmod(d.work, 0o755))
	c := cloneJSON(t, d, "shop")
	metadata := serveMetadata(t, host)
	build := func(url string) result {
		return d.tryAs(alice, "golden", "build", "evil", fromHost(), "--from-url", url)
	}
	for what, url := range map[string]string{
		"the host's loopback":              "postgres://u@127.0.0.9/db",
		"the host's loopback by its name":  "postgres://u@localhost/db",
		"its loopback of version 6":        "postgres://u@[::1]/db",
		"its loopback, mapped":             "postgres://u@[::ffff:127.0.0.1]/db",
		"the host's address":               "postgres://u@192.0.2.1/db",
		"the gateway of clones":            "postgres://u@" + gatewayOf(c).String() + "/db",
		"services of its cloud":            "postgres://u@" + metadata + "/db",
		"an abstract socket":               "postgres://u@h/db?host=@abstract",
		"a socket":                         "postgres:///db?host=/run/postgresql",
		"another address than that host's": "postgres://u@192.0.2.2/db?hostaddr=127.0.0.1",
		"a service":                        "postgres://u@192.0.2.2/db?service=x",
		"a file of passwords":              "postgres://u@192.0.2.2/db?passfile=/etc/shadow",
	} {
		r := build(url)
		if r.code != 2 && r.code != 6 {
			t.Errorf("%s: exit code %d: %s", what, r.code, r.stderr)
			continue
		}
		fails(t, "dump "+what, r.stderr)
	}
	r := build(c.URL) // of an administrator's clone, whose password alice may know
	wantDenied(t, "dump another's clone", "is no clone of yours", r.stderr, exitError(r))

	// A program of hers that connects where she likes reaches as much as her clone with egress.
	open := cloneJSON(t, d, "shop", "--egress")
	for _, address := range []string{metadata, "192.0.2.1:22"} {
		mustNotDial(t, "what has egress", open, address)
	}
	if conn, err := dialIn(host, metadata, 10*time.Second); err != nil {
		t.Errorf("the attack itself is wrong: the host does not reach it: %v", err)
	} else {
		_ = conn.Close()
	}
	r = build("postgres://u@" + beyond + "/db") // something answers there
	if r.code == 0 || !strings.Contains(r.stderr, "invalid response") {
		t.Errorf("a server beyond the host: %s", r.stderr)
	}
}

// serveMetadata answers beyond a host of newEgressHost as a cloud's metadata service does.
func serveMetadata(t *testing.T, host string) string {
	t.Helper()
	beyond := filepath.Join(filepath.Dir(host), strings.TrimSuffix(filepath.Base(host), "host")+"beyond")
	out, err := exec.Command("nsenter", "--net="+beyond, "ip", "address", "add", "169.254.169.254/32", "dev", "eth0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var l net.Listener
	do(t, inside(beyond, func() (err error) {
		l, err = net.Listen("tcp", "169.254.169.254:80")
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "secret")
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}
