package host

import (
	"bytes"
	"debug/elf"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// find plans files with a library path, and returns source by target.
func find(t *testing.T, tree snapshot.HostTree) (map[string]string, *Plan, error) {
	t.Helper()
	plan, err := Find(t.Context(), tree, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	sources := map[string]string{}
	for _, e := range plan.entries {
		if e.source != "" {
			sources[e.target] = e.source
		}
	}
	return sources, plan, nil
}

// publicDir is a directory that all users can read, as t.TempDir is not always.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func TestLibrarySearch(t *testing.T) {
	needed := func(name string) dyn { return dyn{elf.DT_NEEDED, name} }
	system := newLoader(nil).systemDir(&object{class: elf.ELFCLASS64, machine: machines[archOf()]})
	f := &finder{merged: mergedDirs()}
	for name, tt := range map[string]struct {
		setup func(dir string) // makes dir/app/bin/program and its libraries
		path  string           // library path below dir
		want  map[string]string
	}{
		"runpath with origin": {
			setup: func(dir string) {
				writeELF(t, dir+"/app/bin/program", "", needed("liba.so"), dyn{elf.DT_RUNPATH, "$ORIGIN/../lib"})
				writeELF(t, dir+"/app/lib/liba.so", "")
			},
			want: map[string]string{"/opt/lib/liba.so": "/app/lib/liba.so"},
		},
		"rpath goes for libraries of libraries": {
			setup: func(dir string) {
				writeELF(t, dir+"/app/bin/program", "", needed("liba.so"), dyn{elf.DT_RPATH, "${ORIGIN}/../lib"})
				writeELF(t, dir+"/app/lib/liba.so", "", needed("libb.so"))
				writeELF(t, dir+"/app/lib/libb.so", "")
			},
			want: map[string]string{"/opt/lib/liba.so": "/app/lib/liba.so", "/opt/lib/libb.so": "/app/lib/libb.so"},
		},
		"library path goes to the system's directory": {
			setup: func(dir string) {
				writeELF(t, dir+"/app/bin/program", "", needed("liba.so"))
				writeELF(t, dir+"/elsewhere/liba.so", "")
			},
			path: "/elsewhere",
			want: map[string]string{f.normal(system + "/liba.so"): "/elsewhere/liba.so"},
		},
		"other machine is passed over": {
			setup: func(dir string) {
				writeELF(t, dir+"/app/bin/program", "", needed("liba.so"), dyn{elf.DT_RUNPATH, "$ORIGIN/other:$ORIGIN/right"})
				writeELFFor(t, dir+"/app/bin/other/liba.so", elf.EM_MIPS, "")
				writeELF(t, dir+"/app/bin/right/liba.so", "")
			},
			want: map[string]string{"/opt/bin/right/liba.so": "/app/bin/right/liba.so"},
		},
		"soname is a link": {
			setup: func(dir string) {
				writeELF(t, dir+"/app/bin/program", "", needed("liba.so.1"), dyn{elf.DT_RUNPATH, "$ORIGIN"})
				writeELF(t, dir+"/app/bin/liba.so.1.2", "")
				must(t, os.Symlink("liba.so.1.2", dir+"/app/bin/liba.so.1"))
			},
			want: map[string]string{"/opt/bin/liba.so.1": "/app/bin/liba.so.1.2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := publicDir(t)
			tt.setup(dir)
			tree := snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/app/bin/program", Target: "/opt/bin/program"}}}
			if tt.path != "" {
				tree.LibraryPath = []string{dir + tt.path}
			}
			want := map[string]string{"/opt/bin/program": dir + "/app/bin/program"}
			for target, source := range tt.want {
				want[target] = dir + source
			}
			got, _, err := find(t, tree)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sources by target (-want +got):\n%s", diff)
			}
		})
	}
}

func archOf() string {
	for arch, m := range machines {
		if exe, err := elf.Open("/proc/self/exe"); err == nil && exe.Machine == m {
			return arch
		}
	}
	return ""
}

func TestMissingLibrary(t *testing.T) {
	dir := publicDir(t)
	loader := dir + "/ld.so"
	writeELF(t, loader, "")
	writeELF(t, dir+"/tree/bin/server", loader, dyn{elf.DT_NEEDED, "liba.so"}, dyn{elf.DT_RUNPATH, "$ORIGIN"})
	writeELF(t, dir+"/tree/bin/liba.so", "", dyn{elf.DT_NEEDED, "libgone.so.3"})
	_, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/tree"}}})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "libgone.so.3") || !strings.Contains(err.Error(), "bin/server") {
		t.Errorf("program without its library: %v", err)
	}

	must(t, os.Remove(dir+"/tree/bin/server"))
	var logged bytes.Buffer
	plan, err := Find(t.Context(), snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/tree"}}},
		slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil || plan == nil || !strings.Contains(logged.String(), "libgone.so.3") {
		t.Errorf("plugin without its library: %v, logged %q", err, &logged)
	}
}

func TestScripts(t *testing.T) {
	dir := publicDir(t)
	must(t, os.WriteFile(dir+"/script", []byte("#! /usr/bin/env -S sh -e\n"), 0o755))
	got, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/script", Target: "/script"}}})
	if err != nil {
		t.Fatal(err)
	}
	f := &finder{merged: mergedDirs()}
	for _, target := range []string{"/usr/bin/env", f.normal("/bin/sh")} {
		if got[target] == "" {
			t.Errorf("no %s in %v", target, slices.Sorted(maps.Keys(got)))
		}
	}
	must(t, os.WriteFile(dir+"/script", []byte("#!/nonexistent/perl\n"), 0o755))
	_, _, err = find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/script", Target: "/script"}}})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "/nonexistent/perl") {
		t.Errorf("script without interpreter: %v", err)
	}
}

func TestKey(t *testing.T) {
	dir := publicDir(t)
	must(t, os.WriteFile(dir+"/file", []byte("one"), 0o644))
	tree := snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/file", Target: "/file"}}}
	key := func() string {
		t.Helper()
		_, plan, err := find(t, tree)
		must(t, err)
		return plan.Key().String()
	}
	seen := []string{key()}
	if again := key(); again != seen[0] {
		t.Error("key of an unchanged tree changed")
	}
	for _, change := range []func(){
		func() { must(t, os.WriteFile(dir+"/file", []byte("two"), 0o644)) },
		func() { must(t, os.Chmod(dir+"/file", 0o755)) },
		func() { tree.Files[0].Target = "/other" },
		func() { tree.Users = []snapshot.User{{Name: "db", ID: 70}} },
		func() { tree.Dirs = []snapshot.HostDir{{Path: "/d", Mode: 0o700}} },
	} {
		change()
		k := key()
		if slices.Contains(seen, k) {
			t.Errorf("change %d left the key as it was", len(seen))
		}
		seen = append(seen, k)
	}
}

func TestReadConf(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/conf.d", 0o755))
	must(t, os.WriteFile(dir+"/ld.so.conf", []byte("# comment\n/a # why\ninclude conf.d/*.conf\n\n/b/\n"), 0o644))
	must(t, os.WriteFile(dir+"/conf.d/x.conf", []byte("/c\nrelative\ninclude "+dir+"/ld.so.conf\n"), 0o644))
	got := slices.Compact(slices.Sorted(slices.Values(readConf(dir+"/ld.so.conf", 0))))
	if diff := cmp.Diff([]string{"/a", "/b", "/c"}, got); diff != "" {
		t.Error(diff)
	}
}
