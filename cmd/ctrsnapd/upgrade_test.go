package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestUpgrade: a daemon takes up the clones of the last release, whose records are of another
// form, and loses none.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[pool]\nauto = false\n")
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	job := exec.Command("sleep", "600")
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { job.Process.Kill(); job.Wait() })
	d.run("clone", "shop", "--name", "all", "--label", "job=42", "--set", "work_mem=8MB", "--password", "--idle-ttl", "2h", "--protect",
		"--memory", "512MiB", "--connections", "20", "--egress=false", "--publish", "127.0.0.1:0")
	d.run("clone", "shop", "--name", "peers", "--count", "2", "--ttl", "3h")
	d.run("clone", "shop", "--name", "socket", "--network", "none")
	d.run("clone", "shop", "--name", "held", "--lease", fmt.Sprintf("pid:%d", job.Process.Pid))
	d.run("clone", "shop", "--name", "attached", "--network", "type=ptp,ip=198.18.77.7/24")
	d.run("pool", "set", "shop", "--size", "1")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["shop:1"].Ready == 1 })
	before := clones(t, d)
	for _, c := range before {
		query(t, c.URL, "CREATE TABLE mine AS SELECT 42")
	}

	d.stop(syscall.SIGTERM)
	asReleased(t, filepath.Join(d.state, "records"), len(before)+1)
	d.start()
	after := clones(t, d)
	for id, c := range before {
		if !reflect.DeepEqual(after[id], c) {
			t.Errorf("clone %s is\n%+v, was\n%+v", c.Name, after[id], c)
		}
		if got := query(t, c.URL, "SELECT * FROM mine"); got != "42" {
			t.Errorf("%s has %q", c.Name, got)
		}
	}
	if got := pools(t, d)["shop:1"]; got.Ready != 1 {
		t.Errorf("the pool: %+v", got)
	}
	if got := d.logTail(); len(after) != len(before) || !strings.Contains(got, fmt.Sprintf("adopted=%d pool=1 removed=0", len(before))) {
		t.Errorf("%d clones are left of %d:\n%s", len(after), len(before), got)
	}
	if got := query(t, after[d.run("inspect", "all", "--format", "{{.id}}")].URLs["published"], "SHOW work_mem"); got != "8MB" {
		t.Errorf("by the published port: %s", got)
	}
	d.run("extend", "peers-1", "--ttl", "5h")
	job.Process.Kill()
	job.Wait()
	waitFor(t, "the clone of a process that has ended to go", func() bool { return d.try(nil, "inspect", "held").code == 3 })
	d.restart(syscall.SIGKILL)
	if got := clones(t, d); len(got) != len(before)-1 {
		t.Errorf("%d clones are left of %d", len(got), len(before)-1)
	}
}

// clones are those that there are, by id, without what is measured.
func clones(t *testing.T, d *daemon) map[string]api.Clone {
	t.Helper()
	var doc struct{ Clones []api.Clone }
	if err := json.Unmarshal([]byte(d.run("ls", "-o", "json")), &doc); err != nil {
		t.Fatal(err)
	}
	all := map[string]api.Clone{}
	for _, c := range doc.Clones {
		c.DiskBytes, c.MemoryBytes = 0, 0
		all[c.ID] = c
	}
	return all
}

// asReleased writes the records of clones as the last release, efabb69, has written them: with
// the fields that those have which a daemon of it left behind, and no others.
func asReleased(t *testing.T, dir string, want int) {
	t.Helper()
	kept, err := filepath.Glob("../../runtime/manager/testdata/records/1/*.json")
	if err != nil || len(kept) == 0 {
		t.Fatalf("%d records of the last release: %v", len(kept), err)
	}
	always, ever := map[string]int{}, map[string]bool{}
	for _, file := range kept {
		for field := range fields(t, file) {
			always[field]++
			ever[field] = true
		}
	}
	maps.DeleteFunc(always, func(_ string, n int) bool { return n < len(kept) })
	records, err := filepath.Glob(filepath.Join(dir, "c*"))
	if err != nil || len(records) != want {
		t.Fatalf("%d records, want %d: %v", len(records), want, err)
	}
	for _, file := range records {
		doc := fields(t, file)
		delete(doc, "form")
		delete(doc, "isolation") // not written then: it is found out
		doc["schema"], doc["state"], doc["created"], doc["disk_bytes"], doc["memory_bytes"] = 1, "running", true, 0, 0
		urls := doc["urls"].(map[string]any)
		if doc["url"] = urls["tcp"]; doc["url"] == nil {
			doc["url"] = urls["socket"]
		}
		if attached, ok := doc["attached"].([]any); ok {
			attached[0].(map[string]any)["schema"] = 1
		}
		for field := range doc {
			if !ever[field] && field != "egress" {
				t.Errorf("%s: efabb69 wrote no %s", file, field)
			}
		}
		for field := range always {
			if _, ok := doc[field]; !ok {
				t.Errorf("%s: efabb69 wrote %s: there are %v", file, field, slices.Sorted(maps.Keys(doc)))
			}
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// fields reads a JSON document.
func fields(t *testing.T, file string) (doc map[string]any) {
	t.Helper()
	if err := json.Unmarshal(mustRead(t, file), &doc); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return doc
}
