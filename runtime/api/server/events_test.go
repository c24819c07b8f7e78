package server

import (
	"slices"
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
	}{{nil, len(api.EventTypes)}, {[]string{"clone.died"}, 1}, {[]string{"storage", "golden.built"}, 3}, {[]string{"clone"}, 7}} {
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
