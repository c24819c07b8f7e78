package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ctrsnap/ctrsnap/bench"
)

// Results is the name of the file of results that Save writes and plans read.
const Results = "results.json"

// Save writes results.json and the reports, with their pictures, into a directory.
func Save(dir string, results []bench.Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	write := func(name string, to func(io.Writer, []bench.Result) error) error {
		var b bytes.Buffer
		if err := to(&b, results); err != nil {
			return fmt.Errorf("save %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("save report: %w", err)
		}
		return nil
	}
	array := func(w io.Writer, r []bench.Result) error { return JSON(w, r) }
	for name, to := range map[string]func(io.Writer, []bench.Result) error{
		Results: array, "report.md": Markdown, "report.html": HTML, "bench.txt": Gobench,
	} {
		if err := write(name, to); err != nil {
			return err
		}
	}
	plots, err := Plots(results)
	if err != nil {
		return err
	}
	for _, p := range plots {
		if err := write(p.Name+".svg", func(w io.Writer, _ []bench.Result) error { _, err := w.Write(p.SVG); return err }); err != nil {
			return err
		}
	}
	return nil
}
