package enginetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// password: a clone takes one of its own, cold and from a pool, and no longer the golden's;
// or the engine says by its name that it has none.
func (r runner) password(t *testing.T) {
	if !r.OwnPassword {
		_, stderr, code := r.Try(t, "clone", r.golden, "--password")
		if code != 2 || !strings.Contains(stderr, "engine "+r.Engine+" ") {
			t.Errorf("exit code %d, want 2 and the engine's name\n%s", code, stderr)
		}
		return
	}
	first := decode(t, r.Run(t, "inspect", r.First(), "-o", "json"))[0]
	check := func(t *testing.T) {
		c := r.Clone(t, r.golden, "--password")
		defer r.Run(t, "rm", c.ID)
		if !c.OwnPassword || c.Password == first.Password {
			t.Fatalf("it has the golden's password: own %t", c.OwnPassword)
		}
		checkSeed(t, r.open(t, c))
		if got := r.Run(t, append([]string{"connect", c.ID, "--"}, r.Client...)...); !strings.Contains(got, "value-0") {
			t.Errorf("connect prints %q", got)
		}
		golden := c
		golden.Password = first.Password
		golden.URL = strings.ReplaceAll(c.URL, c.Password, first.Password)
		if s, err := r.Open(t.Context(), golden); err == nil {
			_ = s.Close()
			t.Error("the golden's password is taken, too")
		}
	}
	t.Run("cold", check)
	r.Run(t, "pool", "set", r.golden, "--size", "1")
	r.filled(t)
	t.Run("pooled", check)
	r.Run(t, "pool", "set", r.golden, "--size", "0")
}

// limits: the kernel holds the clone's processes, and the server its connections.
func (r runner) limits(t *testing.T) {
	c := r.Clone(t, r.golden, "--memory", "768MiB", "--cpus", "1.5", "--pids", "300")
	checkSeed(t, r.open(t, c))
	for name, want := range map[string]string{"memory": strconv.Itoa(768 << 20), "pids": "300"} {
		if got := cgroupLimit(t, c, name); got != want {
			t.Errorf("limit of %s: %s, want %s", name, got, want)
		}
	}
	r.Run(t, "rm", c.ID)
	if r.Connections == 0 {
		_, stderr, code := r.Try(t, "clone", r.golden, "--connections", "20")
		if code != 2 || !strings.Contains(stderr, "engine "+r.Engine+" has no limit of connections") {
			t.Errorf("exit code %d, want 2\n%s", code, stderr)
		}
		return
	}
	c = r.Clone(t, r.golden, "--connections", strconv.Itoa(r.Connections))
	defer r.Run(t, "rm", c.ID)
	taken, err := r.occupy(t, c)
	if most := r.Connections + r.Reserved; err == nil || taken > most || taken < r.Connections-1 {
		t.Errorf("%d connections were taken, want up to %d: %v", taken, most, err)
	}
}

// occupy takes connections until one is refused, and keeps them.
func (r runner) occupy(t *testing.T, c api.Clone) (n int, err error) {
	for n = range 2*r.Connections + 20 {
		s, err := r.Open(t.Context(), c)
		if err != nil {
			return n, err
		}
		defer func() { _ = s.Close() }()
	}
	return n, nil
}

// cgroupLimit reads what the kernel holds a clone's processes to.
func cgroupLimit(t *testing.T, c api.Clone, controller string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"memory": "memory.limit_in_bytes", "pids": "pids.max"}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		file := filepath.Join("/sys/fs/cgroup", controller, f[2], files[controller])
		switch {
		case f[1] == "" && len(strings.Split(string(text), "\n")) == 2: // version 2 alone
			file = filepath.Join("/sys/fs/cgroup", f[2], controller+".max")
		case f[1] != controller:
			continue
		}
		limit, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(limit))
	}
	t.Fatalf("no controller %s of clone %s in:\n%s", controller, c.ID, text)
	return ""
}

// published: a port of the host leads to the server, and its URL says so.
func (r runner) published(t *testing.T) {
	c := r.Clone(t, r.golden, "--publish", "127.0.0.1:0")
	defer r.Run(t, "rm", c.ID)
	if len(c.Published) != 1 {
		t.Fatalf("published at %v", c.Published)
	}
	_, port, _ := strings.Cut(c.Published[0], ":")
	if !strings.Contains(c.URLs["published"], "127.0.0.1:"+port) {
		t.Errorf("published at %s, and the URL is %q", port, c.URLs["published"])
	}
	at := c
	at.URL, at.Host = c.URLs["published"], "127.0.0.1"
	at.Port, _ = strconv.Atoi(port) // 0 does not answer
	checkSeed(t, r.open(t, at))
}
