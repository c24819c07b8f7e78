package redis

import "testing"

func TestDescriptions(t *testing.T) {
	for _, e := range []interface{ Name() string }{New(), NewValkey()} {
		t.Log(e.Name())
	}
}
