package report

import (
	"slices"
	"testing"
)

func TestTicksHaveNoIdleDigits(t *testing.T) {
	var labels []string
	for _, tick := range plainTicks(0, 500) {
		if tick.Label != "" {
			labels = append(labels, tick.Label)
		}
	}
	if !slices.Equal(labels, []string{"0", "250", "500"}) {
		t.Errorf("got %q", labels)
	}
}
