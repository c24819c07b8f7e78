package report

import (
	_ "embed" // the page
	"html/template"
	"io"
	"slices"

	"github.com/ctrsnap/ctrsnap/bench"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": number, "quotient": quotient, "shown": shown, "place": place, "marks": marks, "limit": limit, "verdict": verdict,
	"ratios": func(all []bench.Result) bool {
		return slices.ContainsFunc(all, func(r bench.Result) bool { return len(r.Ratios) > 0 })
	},
	"svg": func(b []byte) template.HTML { return template.HTML(inline(b)) },
}).Parse(pageText))

// inline is an SVG document without its prologue, which has no place in a page.
func inline(svg []byte) []byte {
	for i := range svg {
		if i+4 <= len(svg) && string(svg[i:i+4]) == "<svg" {
			return svg[i:]
		}
	}
	return svg
}

// HTML writes one page that needs nothing else: no network, no script.
func HTML(w io.Writer, results []bench.Result) error {
	plots, err := Plots(results)
	if err != nil {
		return err
	}
	return page.Execute(w, struct {
		Summary []string
		Results []bench.Result
		Plots   []Plot
	}{Summary(results), results, plots})
}
