package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
)

// filter is --filter of a list: by field, the values of which a document has one. label is a field of its own: K=V, or K.
type filter struct{ fields map[string][]string }

// flags are those of a list, beside those of out.
func (f *filter) flags(out *output) []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "filter", Usage: "only what has `FIELD=VALUE`, a field of -o json; * and ? match; of several values of a field one (repeatable)", Value: f},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names only, as -o name", Destination: &out.quiet},
	}
}

// Set adds a condition.
func (f *filter) Set(s string) error {
	field, value, ok := strings.Cut(s, "=")
	if _, err := path.Match(value, ""); !ok || field == "" || err != nil {
		return fmt.Errorf("want FIELD=VALUE, as in state=dead")
	}
	if f.fields == nil {
		f.fields = map[string][]string{}
	}
	f.fields[field] = append(f.fields[field], value)
	return nil
}

func (f *filter) String() string { return "" }

// Get is for the parser.
func (f *filter) Get() any { return f.fields }

// chosen returns the documents that f lets through.
func chosen[T any](f *filter, docs []T) ([]T, error) {
	var none T
	known := fields(none)
	for field := range f.fields {
		if _, ok := known[field]; !ok && (field != "label" || known["labels"] == nil) {
			return nil, usagef("fields are: %s", strings.Join(slices.Sorted(maps.Keys(known)), ", ")).of("--filter: there is no field %q", field)
		}
	}
	return slices.DeleteFunc(docs, func(doc T) bool { return !f.lets(fields(doc)) }), nil
}

func (f *filter) lets(doc map[string]any) bool {
	for field, values := range f.fields {
		if !slices.ContainsFunc(values, func(v string) bool { return holds(doc, field, v) }) {
			return false
		}
	}
	return true
}

func holds(doc map[string]any, field, want string) bool {
	if field == "label" {
		labels, _ := doc["labels"].(map[string]string)
		key, value, given := strings.Cut(want, "=")
		got, has := labels[key]
		return has && (!given || matchesText(value, got))
	}
	return matchesText(want, fmt.Sprint(doc[field]))
}

// matchesText says whether a pattern of --filter matches. A slash is a letter like others.
func matchesText(pattern, text string) bool {
	ok, _ := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(text, "/", "\x00")) // was checked
	return ok
}
