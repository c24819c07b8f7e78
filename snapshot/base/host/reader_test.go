package host

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// TestDeputy: files in a prefix name others, by each way that there is. Nothing is taken that the reader cannot read, nor, for root
// can read all, what root does not own or not every user reaches.
func TestDeputy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := publicDir(t)
	for _, d := range []string{dir, filepath.Dir(dir)} {
		must(t, os.Chmod(d, 0o755))
	}
	prefix := dir + "/prefix"
	must(t, os.MkdirAll(dir+"/closed/open", 0o755))
	must(t, os.MkdirAll(dir+"/bobs", 0o755))
	for _, f := range []string{"/closed/open/x", "/bobs/x"} {
		writeELF(t, dir+f, "")
	}
	must(t, os.Chown(dir+"/bobs", 51002, 51002))
	must(t, os.Chmod(dir+"/closed", 0o700))
	for _, reader := range []snapshot.HostReader{{}, {UID: 51001, Groups: []int{51001}}} {
		for _, victim := range []string{dir + "/closed/open", dir + "/bobs"} {
			for way, plant := range map[string]func(){
				"interpreter of a script": func() { must(t, os.WriteFile(prefix+"/bin", []byte("#!"+victim+"/x\n"), 0o755)) },
				"directory as interpreter": func() {
					must(t, os.WriteFile(prefix+"/bin", []byte("#!"+victim+"\n"), 0o755))
				},
				"loader":   func() { writeELF(t, prefix+"/bin", victim+"/x") },
				"run path": func() { writeELF(t, prefix+"/bin", "", dyn{elf.DT_NEEDED, "x"}, dyn{elf.DT_RUNPATH, victim}) },
				"library":  func() { writeELF(t, prefix+"/bin", "", dyn{elf.DT_NEEDED, victim + "/x"}) },
				"link":     func() { must(t, os.Symlink(victim+"/x", prefix+"/bin")) },
			} {
				must(t, os.RemoveAll(prefix))
				must(t, os.Mkdir(prefix, 0o755))
				plant()
				tree := snapshot.HostTree{
					Prefix: prefix, Reader: reader,
					Files: []snapshot.HostFile{{Source: prefix + "/bin", Target: "/bin/x"}},
				}
				got, _, err := find(t, tree)
				for _, source := range got {
					if strings.HasPrefix(source, victim) {
						t.Errorf("user %d by %s takes %s", reader.UID, way, source)
					}
				}
				if err == nil && way != "loader" && way != "library" && way != "run path" || err != nil && !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err) {
					t.Errorf("user %d by %s to %s: %v", reader.UID, way, victim, err)
				}
			}
		}
	}
}

// TestSwapped: who exchanges a directory for a link, between the look and the copy, gets no other file copied.
func TestSwapped(t *testing.T) {
	dir := publicDir(t)
	must(t, os.MkdirAll(dir+"/prefix/lib", 0o755))
	must(t, os.WriteFile(dir+"/prefix/lib/file", []byte("theirs"), 0o644))
	tree := snapshot.HostTree{Prefix: dir + "/prefix", Files: []snapshot.HostFile{{Source: dir + "/prefix/lib", Target: "/lib"}}}
	_, plan, err := find(t, tree)
	must(t, err)
	must(t, os.Rename(dir+"/prefix/lib", dir+"/real"))
	must(t, os.Symlink(dir+"/real", dir+"/prefix/lib")) // the same file even
	if _, err := plan.Write(t.Context(), t.TempDir()); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}
