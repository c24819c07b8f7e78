package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// FuzzCloneRequest holds that any body is taken or refused by our error
// document, and that what is taken is what was sent.
func FuzzCloneRequest(f *testing.F) {
	for _, seed := range []string{`{"golden":"shop"}`, `{"golden":"shop","count":2,"ttl":"1h","labels":{"a":"b"}}`, `{"golden":1}`, `[`, ``, `null`, `{"golden":"\u0000"}`} {
		f.Add([]byte(seed))
	}
	s := New(Options{Clones: fakeClones{newFake()}, Goldens: fakeGoldens{newFake()}, Pools: fakePools{newFake()}, Host: fakeHost{newFake()}, Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/clones", bytes.NewReader(body)))
		if w.Code == http.StatusOK || w.Code == http.StatusNotFound {
			var req api.CloneRequest
			if err := json.Unmarshal(body, &req); err != nil {
				t.Errorf("%q was taken: %v", body, err)
			}
			return
		}
		var doc api.ErrorBody
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Error == nil || doc.Error.Code != api.CodeUsage {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}

// FuzzBuildForm holds that no form panics, and that the end is said only at the
// end.
func FuzzBuildForm(f *testing.F) {
	f.Add([]byte("--B\r\nContent-Disposition: form-data; name=\"spec\"\r\n\r\n{\"name\":\"shop\"}\r\n--B\r\nContent-Disposition: form-data; name=\"init\"; filename=\"a.sql\"\r\n\r\nselect 1\r\n--B--\r\n"))
	f.Add([]byte("--B--"))
	fake := newFake()
	fake.build = func(_ context.Context, _ api.BuildRequest, next func() (api.Part, error), _ func(api.BuildEvent)) (api.Golden, bool, error) {
		_, err := spool(next)
		return api.Golden{}, false, err
	}
	s := New(Options{Clones: fakeClones{fake}, Goldens: fakeGoldens{fake}, Pools: fakePools{fake}, Host: fakeHost{newFake()}, Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/v1/goldens", io.NopCloser(bytes.NewReader(body)))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=B")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusOK && !bytes.Contains(body, []byte("--B--")) {
			t.Errorf("%q was taken for whole: %s", body, w.Body)
		}
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}
