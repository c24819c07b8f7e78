package server

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"testing"
)

var record = flag.Bool("record", false, "record the API's document as the promise that TestPromise holds")

// document is what a server serves that has all optional parts.
func document(t *testing.T) []byte {
	t.Helper()
	type ( // what is embedded is a field of that name, which hides a method
		pools      = Pools
		interfaces = Interfaces
		networks   = Networks
		engines    = Engines
		stats      = Stats
	)
	s := New(Options{
		Clones: struct{ Clones }{}, Goldens: struct{ Goldens }{}, Pools: struct{ pools }{}, Host: struct{ Host }{},
		Interfaces: struct{ interfaces }{}, Networks: struct{ networks }{}, Engines: struct{ engines }{}, Stats: struct{ stats }{},
		Logger: slog.New(slog.DiscardHandler),
	})
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	return w.Body.Bytes()
}

// TestPromise holds that the API only grows: what testdata/openapi.json says is still
// so, but for texts. Record what was added with go test ./runtime/api/server -record.
func TestPromise(t *testing.T) {
	const file = "testdata/openapi.json"
	var was, is any
	if err := json.Unmarshal(document(t), &is); err != nil {
		t.Fatal(err)
	}
	if *record {
		b, _ := json.MarshalIndent(is, "", " ")
		if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &was); err != nil {
		t.Fatal(err)
	}
	broken(was, is, "", func(format string, args ...any) { t.Errorf(format, args...) })
}

// broken tells of what is not in is as it is in was.
func broken(was, is any, at string, tell func(format string, args ...any)) {
	switch was := was.(type) {
	case map[string]any:
		is, _ := is.(map[string]any)
		for k, v := range was {
			if k != "description" && k != "summary" {
				broken(v, is[k], at+"/"+k, tell)
			}
		}
	case []any:
		is, _ := is.([]any)
		for i, v := range was {
			if !slices.ContainsFunc(is, func(other any) bool { return kept(v, other) }) {
				tell("%s/%d: %v is gone", at, i, v)
			}
		}
	default:
		if !reflect.DeepEqual(was, is) {
			tell("%s: was %v, is %v", at, was, is)
		}
	}
}

func kept(was, is any) bool {
	ok := true
	broken(was, is, "", func(string, ...any) { ok = false })
	return ok
}

func TestPromiseIsTested(t *testing.T) {
	for was, is := range map[string]string{`{"a":1}`: `{}`, `{"a":{"b":1}}`: `{"a":{"b":2}}`, `["x","y"]`: `["y"]`, `[{"name":"x","in":"path"}]`: `[{"name":"x","in":"query"}]`} {
		var w, i any
		if err := fmt.Sprint(json.Unmarshal([]byte(was), &w), json.Unmarshal([]byte(is), &i)); err != "<nil> <nil>" {
			t.Fatal(err)
		}
		if kept(w, i) {
			t.Errorf("%s passes for %s", is, was)
		}
	}
}
