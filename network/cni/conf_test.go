package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	for name, doc := range map[string]string{
		"empty": "", "not json": "{", "no name": `{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`,
		"no plugins": `{"cniVersion":"1.0.0","name":"x"}`, "none": `{"cniVersion":"1.0.0","name":"x","plugins":[]}`,
		"no type": `{"cniVersion":"1.0.0","name":"x","plugins":[{}]}`, "list": `[]`, "null": `null`,
		"version":  `{"cniVersion":"new","name":"x","plugins":[{"type":"bridge"}]}`,
		"delegate": `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"flannel","delegate":{"name":"y"}}]}`,
	} {
		path := write(t, dir, name+".conflist", doc)
		if _, err := Read(path, false); !errdefs.IsInvalidArgument(err) || testsuite.Hint(err) == "" || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(filepath.Join(dir, "nonesuch"), false); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestUnknownPlugin(t *testing.T) {
	opts := testOptions(t, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"nonesuch"}]}`)
	if _, err := Open(t.Context(), opts); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("open: %v", err)
	}
	opts = testOptions(t, bridgeConflist("x", "10.98.1.0/24", ""), bridgeConflist("x", "10.98.2.0/24", ""))
	if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
		t.Errorf("one network twice: %v", err)
	}
	if _, err := Open(t.Context(), testOptions(t)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no network: %v", err)
	}
}

func TestFind(t *testing.T) {
	own, shared := t.TempDir(), t.TempDir()
	write(t, own, "20.conflist", bridgeConflist("lan", "10.98.1.0/24", ""))
	write(t, own, "10.conf", `{"cniVersion": "0.4.0", "name": "alone", "type": "ptp"}`)
	write(t, own, "30.conflist", "{")
	write(t, own, "README", "no configuration")
	write(t, shared, "20.conflist", bridgeConflist("lan", "10.98.9.0/24", ""))
	write(t, shared, "40.json", `{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}`)
	if err := os.Mkdir(filepath.Join(shared, "lan"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(shared, "lan"), "x.conf", `{"type": "tuning"}`)
	confs := Confs{Dirs: []Dir{{own, false}, {shared, true}, {filepath.Join(own, "nonesuch"), false}}}

	for name, want := range map[string]struct {
		file   string
		shared bool
	}{"lan": {"20.conflist", false}, "alone": {"10.conf", false}, "cbr0": {"40.json", true}, "flannel": {"40.json", true}} {
		c, err := confs.Find(name)
		if err != nil || filepath.Base(c.Path) != want.file || c.Shared != want.shared {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	_, err := confs.Find("nonesuch")
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "nonesuch") || !strings.Contains(err.Error(), "30.conflist") || !strings.Contains(testsuite.Hint(err), "lan") {
		t.Errorf("%v, hint %q", err, testsuite.Hint(err))
	}
	if c, err := (Confs{Dirs: confs.Dirs[:1]}).Find("flannel"); err != nil || c.Path != "" || c.Name != "flannel" {
		t.Errorf("built in: %+v, %v", c, err)
	}
	// Plugins in files of their own are part of what is kept of an attachment.
	c, err := (Confs{Dirs: confs.Dirs[1:]}).Find("lan")
	if err == nil {
		c, err = c.keptIn("/x")
	}
	if err != nil || len(c.list.Plugins) != 2 || !strings.Contains(string(c.list.Bytes), "tuning") {
		t.Errorf("%+v, %v", c, err)
	}
}
