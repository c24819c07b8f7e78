package snapshot

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestStoredGolden: a golden is read, and written, as releases did that had no description apart.
func TestStoredGolden(t *testing.T) {
	const stored = `{"name":"shop","version":3,"engine":"postgres","engine_version":"15.18","state":{"user":"u"},"settings":{"a":"b"},
		"warnings":["w"],"hot":["/h"],"key":"k","key_parts":{"exec":"d"},"parent":"base:2",
		"base":{"kind":"host","ref":"r","digest":"sha256:1","snapshot":"s0","config":{"env":["A=b"]}},
		"sources":[{"kind":"init","name":"a.sql","digest":"sha256:2","size":7}],"builder":"ann","created":"2026-01-02T03:04:05Z",
		"build_seconds":1.5,"snapshot":"s1","size":9,"digest":"sha256:3"}`
	var g Golden
	if err := json.Unmarshal([]byte(stored), &g); err != nil {
		t.Fatal(err)
	}
	if g.Engine != "postgres" || g.Digest != "sha256:3" || g.Base.Snapshot != "s0" || g.Snapshot != "s1" || g.Key != "k" {
		t.Errorf("read %+v", g)
	}
	written, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal([]byte(stored), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(written, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("written %s, %v", written, err)
	}
}

func TestAccessText(t *testing.T) {
	for _, text := range []string{"7:8:0640", "0:-1:0600:protected"} {
		a, err := ParseAccess(text)
		if err != nil || a.String() != text || a.Protected != strings.HasSuffix(text, protected) {
			t.Errorf("%s is %+v %v", text, a, err)
		}
	}
	if _, err := ParseAccess("7:8:0640:guarded"); err == nil {
		t.Error("an unknown word is taken")
	}
}
