package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckRunc has each thing that can be wrong with runc said, and what to do.
func TestCheckRunc(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "runc")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sound := script("echo runc version 1.3.0; echo libseccomp: 2.5.4")
	for name, tt := range map[string]struct{ path, status, detail, fix string }{
		"none":            {"", "error", "not found", "containerd.runc"},
		"fails":           {script("exit 3"), "error", "exit status 3", "containerd.runc"},
		"without seccomp": {script("echo runc version 1.3.0"), "error", "runc version 1.3.0 at ", "built with seccomp"},
		"sound":           {sound, "ok", "runc version 1.3.0 at " + sound, ""},
	} {
		c := CheckRunc(tt.path)(t.Context())
		if c.Name != "runc" || c.Status != tt.status || !strings.Contains(c.Detail, tt.detail) || !strings.Contains(c.Fix, tt.fix) || (c.Fix == "") != (tt.fix == "") {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestCheckUsers(t *testing.T) {
	c := (&Mapped{first: 0x70000000}).Check(t.Context())
	if c.Status != "ok" || c.Detail != "users of clones are 1879048192 to 1879113727 on this host" || c.Fix != "" {
		t.Errorf("with them: %+v", c)
	}
	c = (&Mapped{without: errors.New("too old")}).Check(t.Context())
	if c.Status != "warning" || c.Detail != "none: too old" || c.Why == "" || c.Fix == "" {
		t.Errorf("without: %+v", c)
	}
}

// TestSubIDs refuses ids that somebody else has been given.
func TestSubIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("ann:100000:65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for first, taken := range map[uint32]bool{100000 - 65536: false, 100000 - 65535: true, 100000: true, 165535: true, 165536: false} {
		err := MapOptions{First: first, SubIDs: []string{file, file + ".none"}}.check()
		if (err != nil) != taken {
			t.Errorf("from %d: %v", first, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "ann") || !strings.Contains(err.Error(), file)) {
			t.Errorf("from %d: it does not say who has them, and by which file: %v", first, err)
		}
	}
}

// TestIDsOnDisk maps no id twice, and root of this host to nobody whom a clone has.
func TestIDsOnDisk(t *testing.T) {
	const first = 0x70000000
	all := MapOptions{First: first}.all()
	overlap := func(a, b, size, other uint32) bool {
		return uint64(a) < uint64(b)+uint64(other) && uint64(b) < uint64(a)+uint64(size)
	}
	for i, m := range all {
		for _, o := range all[:i] {
			if overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) || overlap(m.HostID, o.HostID, m.Size, o.Size) {
				t.Errorf("%+v and %+v overlap", m, o)
			}
		}
		if m.HostID == 0 && (m.Size != 1 || m.ContainerID < first+idsOfClone) {
			t.Errorf("root is mapped by %+v", m)
		}
	}
	if m := all[0]; m.ContainerID != 0 || m.HostID != first || m.Size != idsOfClone {
		t.Errorf("a clone's root is mapped by %+v", m)
	}
}

// TestWithoutUsers: where containers cannot have user namespaces, they go without or nothing starts, as the mode says.
func TestWithoutUsers(t *testing.T) {
	for mode, says := range map[string]string{UsersAuto: "no layers", UsersOn: "", UsersOff: "is off"} {
		r := New(nil, Options{})
		m, err := r.MapUsers(t.Context(), MapOptions{
			Mode: mode, SubIDs: []string{}, Layers: func(context.Context) (string, error) { return "", errors.New("no layers") },
		})
		if (err != nil) != (mode == UsersOn) || err != nil && !strings.Contains(err.Error(), "no layers") {
			t.Errorf("%s: %v", mode, err)
		}
		if why := r.Isolation(); why == nil || !strings.Contains(why.Error(), says) {
			t.Errorf("%s: containers are said to have them: %v", mode, why)
		}
		if err == nil && !strings.Contains(m.Check(t.Context()).Detail, says) {
			t.Errorf("%s: %+v", mode, m.Check(t.Context()))
		}
		if err := m.Close(); err != nil {
			t.Errorf("%s: close: %v", mode, err)
		}
	}
}
