package event

import (
	"fmt"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestSince(t *testing.T) {
	h := New()
	if list, _ := h.Since(0); len(list) != 0 {
		t.Errorf("at first: %v", list)
	}
	_, more := h.Since(0)
	for i := range 3 * kept {
		h.Emit(Event{Event: api.Event{Clone: fmt.Sprint(i + 1)}})
	}
	select {
	case <-more:
	default:
		t.Error("nobody is told")
	}
	for _, after := range []uint64{0, kept, 3*kept - 2, 3 * kept, 4 * kept} {
		list, _ := h.Since(after)
		for i, e := range list {
			if e.Clone != fmt.Sprint(e.ID) || i > 0 && e.ID != list[i-1].ID+1 || e.ID <= after {
				t.Fatalf("after %d at %d: %+v", after, i, e)
			}
		}
		if want := max(0, 3*kept-int(after)); len(list) != min(want, len(list)) || after >= 2*kept && len(list) != want {
			t.Errorf("after %d: %d events", after, len(list))
		}
	}
	var none *Hub
	none.Emit(Event{})
	if list, more := none.Since(0); list != nil || more != nil || none.Last() != 0 {
		t.Error("no hub has events")
	}
}
