package access

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestCertUsers: each has one number for ever, which is nobody else's.
func TestCertUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for range 2 {
		u, err := OpenCertUsers(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"ann", "bob", "ann", "carol"} {
			want := certUID + []int{0, 1, 0, 2}[i]
			if got, err := u.number(name); err != nil || got != want {
				t.Errorf("%s has number %d, %v, want %d", name, got, err, want)
			}
			if got, ok := u.Name(want); !ok || got != "cert:"+name {
				t.Errorf("%d is %q", want, got)
			}
		}
		if got, ok, err := u.ID("cert:bob"); got != certUID+1 || !ok || err != nil {
			t.Errorf("bob is %d, %v, %v", got, ok, err)
		}
		if got, ok, err := u.ID("bob"); ok || err != nil {
			t.Errorf("bob of this host is %d, %v", got, err)
		}
		for _, name := range []string{"cert:", "cert:a b", "cert:../etc", "cert:a\nroot"} {
			if got, _, err := u.ID(name); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q is %d, %v", name, got, err)
			}
		}
		for _, uid := range []int{-1, 0, 1000, certUID - 1, certUID + 3} {
			if name, ok := u.Name(uid); ok {
				t.Errorf("%d is %q", uid, name)
			}
		}
	}
	u := &CertUsers{path: filepath.Join(path, "no", "such")}
	if _, err := u.number("ann"); err == nil {
		t.Error("a user who was not recorded")
	}
	if _, ok := u.Name(certUID); ok {
		t.Error("a user who was not recorded has a name")
	}
	if err := os.WriteFile(path, []byte("ann\n../etc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCertUsers(path); !errdefs.IsDataLoss(err) {
		t.Errorf("a damaged file: %v", err)
	}
}
