package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const deadID = "b0123456789a"

func TestRecover(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w := newWorld(t)
	w.unmount = mount.UnmountRecursive
	w.containers[deadID] = &fakeTask{c: runtime.Container{Labels: map[string]string{snapshot.LabelKind: snapshot.KindBuild}}, kill: make(chan struct{})}
	w.containers["c0123456789a"] = &fakeTask{c: runtime.Container{Labels: map[string]string{snapshot.LabelKind: "clone"}}}
	w.netns = map[string]bool{deadID: true, "c0123456789a": true, "b1": true}
	root := filepath.Join(w.RunDir, deadID, mountDir, "root")
	lower := filepath.Join(w.SpoolDir, deadID, "dir")
	for _, d := range []string{root, lower, filepath.Join(w.SpoolDir, "kept"), filepath.Join(w.RunDir, "kept"), filepath.Join(w.RunDir, "b1123456789a")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	golden := t.TempDir()
	if err := os.WriteFile(filepath.Join(golden, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(golden, root, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	got, err := w.Recover(t.Context())
	if err != nil {
		t.Error(err)
	}
	want := Report{Containers: []string{deadID}, Namespaces: []string{deadID}, RunDirs: []string{deadID, "b1123456789a"}, Spools: []string{deadID}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(golden, "precious")); err != nil {
		t.Error(err)
	}
	if len(w.containers) != 1 || len(w.netns) != 2 {
		t.Errorf("containers %v netns %v", w.containers, w.netns)
	}
	for _, d := range []string{w.RunDir, w.SpoolDir} {
		if list, _ := os.ReadDir(d); len(list) != 1 || list[0].Name() != "kept" {
			t.Errorf("%s: %v", d, list)
		}
	}
	if again, err := w.Recover(t.Context()); err != nil || len(again.RunDirs) > 0 {
		t.Errorf("again: %+v %v", again, err)
	}
}

// What cannot be unmounted is not deleted.
func TestRecoverKeepsWhatIsMounted(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.RunDir, deadID, mountDir, "root", "precious")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.netns[deadID] = true
	for _, unmount := range []func(string, int) error{
		func(string, int) error { return syscall.EBUSY },
		func(string, int) error { return nil }, // but it stays
	} {
		w.unmount = unmount
		if _, err := w.Recover(t.Context()); err == nil {
			t.Error("no error")
		}
		if _, err := os.Stat(file); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.netns) > 0 {
		t.Error("one failure kept the rest")
	}
}

func TestLogsArePruned(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.LogDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, age time.Duration) {
		path := filepath.Join(w.LogDir, name)
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write("c00000000000.log", 1000*time.Hour)
	for i := range keepLogs + 5 {
		write(fmt.Sprintf("b%011d.log", i), time.Duration(i)*time.Hour)
	}
	w.jobs[fmt.Sprintf("b%011d", keepLogs+4)] = &job{}
	w.pruneLogs()
	list, err := os.ReadDir(w.LogDir)
	if err != nil || len(list) != keepLogs+2 {
		t.Errorf("%d logs, %v", len(list), err)
	}
	for _, name := range []string{"c00000000000.log", "b00000000000.log", fmt.Sprintf("b%011d.log", keepLogs-1), fmt.Sprintf("b%011d.log", keepLogs+4)} {
		if _, err := os.Stat(filepath.Join(w.LogDir, name)); err != nil {
			t.Error(err)
		}
	}
}

func mountsBelow(t *testing.T, dir string) []*mountinfo.Info {
	t.Helper()
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	return list
}
