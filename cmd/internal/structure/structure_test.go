// Package structure holds the conventions of the tree as tests: what may import
// what, and that every package says what it is.
package structure

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ctrsnap/ctrsnap"

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps=false", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

// rules say which of our packages may not import which, and why. They hold for
// direct imports: what lies below follows.
var rules = []struct{ from, never, because string }{
	{"snapshot", "runtime", "storage knows nothing of what runs"},
	{"snapshot", "network", "storage knows nothing of networks"},
	{"network", "snapshot", "networks know nothing of storage"},
	{"network", "runtime", "networks know nothing of what runs"},
	{"runtime", "bench", "what is measured does not know its measure"},
	{"runtime/access", "runtime", "whoever acts for somebody asks it: it lies below them all"},
	{"runtime/engine", "runtime/containerd", "an engine sees a Workbench, not how it is made"},
	{"runtime/engine", "runtime/manager", "an engine serves whoever calls it"},
	{"runtime/lease", "runtime/api", "it knows ids and times, not documents"},
	{"runtime/manager", "runtime/containerd", "the manager sees a Runner"},
	{"runtime/manager", "runtime/engine", "a new engine touches no other package"},
	{"runtime/patrol", "runtime", "it looks and answers: whoever has the clones ends them"},
	{"runtime/build", "runtime/containerd", "a build sees a Runner"},
	{"runtime/goldens", "runtime/build", "a build adds to the goldens, which do not know how they are made"},
	{"runtime/goldens", "runtime/manager", "goldens see how many clones they have, and a pool that follows"},
	{"runtime", "runtime/host", "the machine is looked at from above all that runs there"},
	{"runtime/build", "runtime/engine", "a new engine touches no other package"},
	{"runtime/api", "runtime/manager", "the server consumes interfaces"},
	{"runtime/client", "runtime/api/server", "the client stays lean"},
}

// leaves import nothing of ours, and why: so each can be read, and tested, by itself. All that is above them may use them.
var leaves = map[string]string{
	"runtime/flight":   "it knows work and who waits for it",
	"runtime/logfile":  "it knows one file",
	"runtime/quota":    "it knows numbers only: of clones, users and bytes",
	"runtime/removal":  "it knows ids only: what a clone is made of is its user's affair",
	"snapshot/keylock": "it knows keys only",
	"snapshot/undo":    "it knows steps only",
}

func TestLeavesImportNothingOfOurs(t *testing.T) {
	for _, p := range packages(t) {
		because, leaf := leaves[strings.TrimPrefix(p.ImportPath, module+"/")]
		for _, imp := range p.Imports {
			if leaf && strings.HasPrefix(imp, module) {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, because)
			}
		}
	}
}

func below(path, tree string) bool {
	return path == module+"/"+tree || strings.HasPrefix(path, module+"/"+tree+"/")
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			if below(imp, "cmd") && !below(p.ImportPath, "cmd") {
				t.Errorf("%s imports %s: wiring is for the mains", p.ImportPath, imp)
			}
			if _, leaf := leaves[strings.TrimPrefix(imp, module+"/")]; leaf {
				continue
			}
			for _, r := range rules {
				if below(p.ImportPath, r.from) && below(imp, r.never) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.because)
				}
			}
		}
	}
}

// TestDomainKnowsNoHTTP holds what acts for callers apart from how they come: not even by others does it
// know the server. A verb whose caller is a parameter can be called, and tested, without a
// request, and none can find its caller in one.
func TestDomainKnowsNoHTTP(t *testing.T) {
	domain := []string{"runtime/access", "runtime/build", "runtime/event", "runtime/goldens", "runtime/lease", "runtime/manager", "runtime/patrol", "runtime/quota", "runtime/removal"}
	server := []string{module + "/runtime/api/server", "github.com/danielgtaylor/huma", "net/http"}
	for _, p := range packages(t) {
		if !slices.ContainsFunc(domain, func(tree string) bool { return below(p.ImportPath, tree) }) {
			continue
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(server, func(s string) bool { return dep == s || strings.HasPrefix(dep, s+"/") }) {
				t.Errorf("%s depends on %s: who acts for callers does not know how they come", p.ImportPath, dep)
			}
		}
	}
}

// TestCommandLineStaysLean holds `ctrsnap` to a short start: each of these
// costs milliseconds before main.
func TestCommandLineStaysLean(t *testing.T) {
	heavy := []string{
		"github.com/containerd/", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/jackc/",
		"github.com/danielgtaylor/huma", "github.com/vishvananda/", "github.com/opencontainers/",
		"github.com/prometheus/", "go.opentelemetry.io/", "go.etcd.io/",
		"net/http", "crypto/tls",
	}
	for _, p := range packages(t) {
		if p.ImportPath != module+"/cmd/ctrsnap" && p.ImportPath != module+"/runtime/client" {
			continue
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(heavy, func(h string) bool { return strings.HasPrefix(dep, h) }) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func TestTopLevelFolders(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"bench", "bin", "cmd", "network", "runtime", "snapshot"}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("top-level folder %s: the tree has %v only", e.Name(), allowed)
		}
		if strings.HasSuffix(e.Name(), ".go") {
			t.Errorf("%s: no Go files at the root", e.Name())
		}
	}
}
