package storage

import "testing"

// TestAvailable: of an image no more can be written than the host has room for, beside what the image has taken already.
func TestAvailable(t *testing.T) {
	for name, tt := range map[string]struct {
		info Info
		want int64
	}{
		"no image":                      {Info{Size: 100, Free: 40, HostFree: 1}, 40},
		"the host has room":             {Info{Image: "i", Size: 100, Free: 40, ImageUsed: 60, HostFree: 1000}, 40},
		"the host is nearly full":       {Info{Image: "i", Size: 100, Free: 40, ImageUsed: 60, HostFree: 5}, 5},
		"the image has free of its own": {Info{Image: "i", Size: 100, Free: 40, ImageUsed: 90, HostFree: 5}, 35},
		"more used than taken (shared)": {Info{Image: "i", Size: 100, Free: 40, ImageUsed: 10, HostFree: 5}, 5},
	} {
		if got := tt.info.Available(); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
