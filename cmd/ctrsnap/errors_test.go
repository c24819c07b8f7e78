package main

import (
	"errors"
	"testing"
)

// TestAbout says once what was done.
func TestAbout(t *testing.T) {
	for message, want := range map[string]string{
		"build golden shop: initdb failed": "build golden shop: initdb failed",
		"roll back golden shop: none":      "roll back golden shop: none",
		"golden build shop: no":            "golden build shop: no",
		"build golden other: no":           "golden build shop: build golden other: no",
		"no such golden shop":              "no such golden shop",
		"x: golden shop is not here":       "golden build shop: x: golden shop is not here",
	} {
		if got := about(errors.New(message), "golden build shop").Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
