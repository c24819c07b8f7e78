package structure

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// opensBelow and opensByPath open whatever a name leads to: a FIFO blocks, a device is told that somebody has come.
var (
	opensBelow = []string{
		"(*os.Root).Open", "(*os.Root).OpenFile", "(*os.Root).Create", "(*os.Root).ReadFile", "(*os.Root).WriteFile",
		"(*os.Root).FS", "(*os.Root).OpenRoot",
	}
	opensByPath = []string{"os.Open", "os.OpenFile", "os.Create", "os.ReadFile", "os.WriteFile", "os.DirFS", "os.CopyFS"}
)

// foreignTrees are the packages whose business is files of images, goldens, clones and uploads.
var foreignTrees = []string{
	"runtime/engine/described", "runtime/engine/mariadb", "runtime/engine/postgres", "runtime/engine/redis", "runtime/engine/rootfs",
	"runtime/engine/source", "runtime/build", "snapshot/golden", "snapshot/overlay",
}

// opensAllowed are files that open something else, with the reason.
var opensAllowed = map[string]string{
	"runtime/build/output.go":             "build logs are the daemon's own",
	"runtime/build/spool.go":              "opens a directory that it has made just now",
	"runtime/engine/postgres/relcache.go": "/proc",
	"runtime/lease/holder.go":             "cgroups",
	"snapshot/base/host/write.go":         "writes into an empty directory of its own",
	"snapshot/golden/build.go":            "opens the directory that the snapshotter has made",
}

// TestForeignFiles: files that others have made are opened by snapshot/foreign only.
func TestForeignFiles(t *testing.T) {
	fset := token.NewFileSet()
	exports, ours := exported(t)
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, p := range ours {
		tree := strings.TrimPrefix(p.ImportPath, module+"/")
		if tree == "snapshot/foreign" || !below(p.ImportPath, "runtime") && !below(p.ImportPath, "snapshot") {
			continue
		}
		forbidden := opensBelow
		if slices.Contains(foreignTrees, tree) {
			forbidden = slices.Concat(opensBelow, opensByPath)
		}
		for id, obj := range uses(t, fset, imp, p) {
			fn, ok := obj.(*types.Func)
			if !ok || !slices.Contains(forbidden, fn.FullName()) {
				continue
			}
			at := fset.Position(id.Pos())
			if opensAllowed[tree+"/"+filepath.Base(at.Filename)] == "" {
				t.Errorf("%s/%s:%d: %s: open what others have made by snapshot/foreign", tree, filepath.Base(at.Filename), at.Line, fn.FullName())
			}
		}
	}
}

// exported returns the files that tell what each package exports, and our packages.
func exported(t *testing.T) (exports map[string]string, ours []pkg) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-export", "-json=ImportPath,Dir,GoFiles,Export", module+"/runtime/...", module+"/snapshot/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports = map[string]string{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			pkg
			Export string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return exports, ours
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if below(p.ImportPath, "runtime") || below(p.ImportPath, "snapshot") {
			ours = append(ours, p.pkg)
		}
	}
}

// uses returns what each identifier of a package means that is declared elsewhere.
func uses(t *testing.T, fset *token.FileSet, imp types.Importer, p pkg) map[*ast.Ident]types.Object {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imp}
	if _, err := conf.Check(p.ImportPath, fset, files, info); err != nil {
		t.Fatal(err)
	}
	return info.Uses
}
