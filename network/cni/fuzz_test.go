package cni

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRead takes configurations as anybody may have written them, a list and a single plugin: what is
// accepted can be looked at, and be told where to keep its records.
func FuzzRead(f *testing.F) {
	for _, doc := range []string{
		`{"cniVersion": "1.0.0", "name": "lan", "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.97.41.0/24"}]]}}]}`,
		`{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}`,
		`{"cniVersion": "0.4.0", "name": "one", "type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.0.0.0/8"}}`,
		`{"name": "x", "plugins": [{"type": "../../bin/sh", "ipam": []}]}`,
		`{"cniVersion": "1.1.0", "cniVersions": ["x"], "name": "", "plugins": [null]}`,
	} {
		f.Add([]byte(doc), true)
		f.Add([]byte(doc), false)
	}
	f.Fuzz(func(t *testing.T, doc []byte, list bool) {
		path := filepath.Join(t.TempDir(), "net.conf")
		if list {
			path += "list"
		}
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path, false)
		if err != nil {
			return
		}
		_, _ = c.PluginTypes()
		kept, err := c.keptIn(t.TempDir())
		if err == nil && len(kept.records()) == 0 {
			t.Errorf("no place for the records of %q", doc)
		}
		_, _ = Parse(doc)
	})
}
