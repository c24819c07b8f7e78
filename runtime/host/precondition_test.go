package host

import (
	"context"
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// states are the statuses of what a check finds, in order.
func states(t *testing.T, look Check) string {
	t.Helper()
	var all []string
	for _, c := range look(t.Context()) {
		if c.Name == "" || c.Detail == "" || c.Status != ok && c.Why+c.Fix == "" {
			t.Errorf("it says too little: %+v", c)
		}
		all = append(all, c.Status)
	}
	return strings.Join(all, " ")
}

func TestPreconditions(t *testing.T) {
	dir := t.TempDir()
	mine, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chown(socket, -1, os.Getegid()); err != nil {
		t.Fatal(err)
	}
	proc := func(filesystems, users, release string) string {
		p := t.TempDir()
		for name, text := range map[string]string{"filesystems": filesystems, "sys/user/max_user_namespaces": users, "sys/kernel/osrelease": release} {
			path := filepath.Join(p, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	serves := func(err error) Check { return CheckSocket(func(string) error { return err }, socket) }
	for name, tt := range map[string]struct {
		look Check
		want string
	}{
		"group":               {CheckGroup(mine.Name, filepath.Join(dir, "none")), ok},
		"no group wanted":     {CheckGroup("", socket), ok},
		"group missing":       {CheckGroup("no-such-group", socket), warning},
		"dirs":                {CheckDirs(dir, filepath.Join(dir, "a", "b")), "ok ok"},
		"free socket":         {serves(syscall.ENOENT), ok},
		"stale socket":        {serves(syscall.ECONNREFUSED), ok},
		"served socket":       {serves(nil), warning},
		"no socket":           {serves(syscall.ENOTSOCK), failed},
		"program":             {CheckPrograms(func(name string) string { return "/bin/" + name }, map[string]string{"sh": "x"}), ok},
		"program missing":     {CheckPrograms(func(string) string { return "" }, map[string]string{"sh": "x"}), failed},
		"kernel":              {CheckKernel(proc("nodev\toverlay", "1000", "6.3.0-1"), true), "ok ok"},
		"no overlay":          {CheckKernel(proc("\txfs", "1000", "6.18.0"), true), "warning ok"},
		"old":                 {CheckKernel(proc("nodev\toverlay", "1000", "6.1.0-28-amd64"), false), "ok warning"},
		"old, users wanted":   {CheckKernel(proc("nodev\toverlay", "1000", "5.15.0"), true), "ok error"},
		"users are forbidden": {CheckKernel(proc("nodev\toverlay", "0", "6.18.0"), false), "ok warning"},
		"storage":             {CheckStorageAhead(storage.Options{Dir: "/proc/none", Image: "/none"}), warning},
		"image":               {CheckStorageAhead(storage.Options{Dir: dir, Image: socket}), ok},
	} {
		if got := states(t, tt.look); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	c := CheckGroup("no-such-group", socket)(context.Background())[0]
	if !strings.Contains(c.Fix, "groupadd --system no-such-group") {
		t.Errorf("no command in %q", c.Fix)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("a check has left %v %v", left, err)
	}
}
