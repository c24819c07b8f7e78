package server

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
)

// TestEventTypes: types are chosen by their names and by what they are of; one that no
// event has is refused.
func TestEventTypes(t *testing.T) {
	ctx := testContext(t)
	d, c := serve(t, newFake())
	for _, et := range api.EventTypes {
		d.hub.Emit(event.Event{Event: api.Event{Type: et}})
	}
	for _, tt := range []struct {
		types []string
		want  int
	}{{nil, len(api.EventTypes)}, {[]string{"clone.died"}, 1}, {[]string{"storage", "golden.built"}, 3}, {[]string{"clone"}, 8}} {
		var got []api.EventType
		if err := c.Events(ctx, api.EventsArgs{Types: tt.types}, func(e api.Event) error { got = append(got, e.Type); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != tt.want || len(got) != len(slices.Compact(slices.Clone(got))) {
			t.Errorf("%v: %v", tt.types, got)
		}
	}
	for _, wrong := range []string{"nonsense", "clone.", "clone.die", "clone.died,clone.removed"} {
		err := c.Events(ctx, api.EventsArgs{Types: []string{"clone", wrong}, Follow: true}, func(api.Event) error { return nil })
		wantCode(t, err, api.CodeUsage, "unknown type of events")
	}
}

// TestLongPaths: whoever asks with paths of a megabyte, that exist or not, does not wash the logs of
// what others did.
func TestLongPaths(t *testing.T) {
	f := newFake()
	var audit, access bytes.Buffer
	s := New(Options{
		Clones: fakeClones{f}, Goldens: fakeGoldens{f}, Pools: fakePools{f}, Host: fakeHost{f},
		Audit: slog.New(slog.NewJSONHandler(&audit, nil)), Logger: slog.New(slog.NewJSONHandler(&access, nil)),
	})
	for _, letter := range []string{"a", "%01", "%ff", "%C3%A9"} {
		for _, path := range []string{"/v1/clones/", "/nonsense/", "/v1/goldens/x/"} {
			audit.Reset()
			access.Reset()
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodDelete, path+strings.Repeat(letter, 1<<20/len(letter)), http.NoBody))
			for name, log := range map[string]*bytes.Buffer{"audit": &audit, "access": &access} {
				if text := log.String(); len(text) > 4096 || !strings.Contains(text, path) || !strings.Contains(text, "bytes)") {
					t.Errorf("%s of %s%s: %d bytes: %.300s", name, path, letter, len(text), text)
				}
			}
		}
	}
}
