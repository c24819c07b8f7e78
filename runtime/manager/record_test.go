package manager

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestRecords reads records that daemons have written, by their form: efabb69 wrote form 1, with
// the wire document of its time in it. What users are told is what they were told then, and
// nothing that is known gets lost when this version writes it again.
func TestRecords(t *testing.T) {
	files, err := filepath.Glob("testdata/records/*/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d records: %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRecord(b)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseRecord(again)
		if r.Form = recordForm; err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: written and read again it is\n%+v, want\n%+v: %v", file, got, r, err)
		}
		var old, now map[string]any
		if err := json.Unmarshal(b, &old); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &now); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(filepath.Dir(file)) == "1" {
			var told api.Clone
			if err := json.Unmarshal(b, &told); err != nil {
				t.Fatal(err)
			}
			if seen := r.wire(); !reflect.DeepEqual(seen, told) {
				t.Errorf("%s: users are told\n%+v, want\n%+v", file, seen, told)
			}
			now["given"], old["attached"] = old["given"], now["attached"] // names of fields have changed: the values are compared below
		}
		for k, v := range old {
			if !reflect.DeepEqual(now[k], v) && !slices.Contains([]string{"schema", "state", "created", "url", "disk_bytes", "memory_bytes", "form"}, k) {
				t.Errorf("%s: %s is %v, was %v", file, k, now[k], v)
			}
		}
		eth1 := []attachment{{Type: "bridge", Master: "cutbr0", IP: "198.18.7.77/24", IfName: "eth1"}}
		for _, have := range [][]attachment{r.Attached, r.Given} {
			for i := range have {
				have[i].MAC = "" // one was given
			}
		}
		switch filepath.Base(file) {
		case "attached.json":
			if !reflect.DeepEqual(r.Attached, eth1) {
				t.Errorf("%s: attached %+v", file, r.Attached)
			}
		case "given.json":
			if !reflect.DeepEqual(r.Given, eth1) {
				t.Errorf("%s: given %+v", file, r.Given)
			}
		}
	}
}

// TestLaterRecord: a clone whose record this version does not understand is left alone.
func TestLaterRecord(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		c, other := create(t, m, api.CloneRequest{}).Clones[0], create(t, m, api.CloneRequest{}).Clones[0]
		m.Close(t.Context())
		w.task(c.ID).c.Record = []byte(`{"form": 3, "id": "` + c.ID + `", "expires_at": {"at": 7}, "ready": true}`)
		m = New(w.options())
		defer m.Close(t.Context())
		report, err := m.Recover(t.Context())
		if !errdefs.IsFailedPrecondition(err) || report.Adopted != 1 {
			t.Errorf("%+v, %v", report, err)
		}
		after(time.Minute)
		if _, err := m.Get(t.Context(), access.Daemon, other.ID); err != nil {
			t.Error(err)
		}
		if w.task(c.ID).hasEnded() || !m.IDs()[c.ID] || !slices.Contains(w.left(t), "snapshot "+c.ID) {
			t.Errorf("it has ended: %v", w.left(t))
		}
	})
}
