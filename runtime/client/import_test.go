package client_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports holds that the client stays lean: the command line that uses it
// must start in a millisecond, which one large dependency would take alone. To
// set up net/http, and TLS with it, takes a third of that.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const own = "github.com/ctrsnap/ctrsnap/runtime/"
	for _, dep := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(dep, "/")
		if strings.Contains(first, ".") && dep != own+"api" && !strings.HasPrefix(dep, own+"client") {
			t.Errorf("imports %s: only the standard library and runtime/api are allowed", dep)
		}
		if dep == "net/http" || dep == "crypto/tls" {
			t.Errorf("imports %s", dep)
		}
	}
}
