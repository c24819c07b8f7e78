package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/ctrsnap/ctrsnap/bench"
)

// JSON writes one result as an object, others as an array.
func JSON(w io.Writer, results []bench.Result) error {
	var doc any = results
	if len(results) == 1 {
		doc = results[0]
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(doc)
}

// Read reads results that were written as JSON: an object or an array.
func Read(path string) ([]bench.Result, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	var results []bench.Result
	if b = bytes.TrimSpace(b); bytes.HasPrefix(b, []byte("{")) {
		results = make([]bench.Result, 1)
		err = json.Unmarshal(b, &results[0])
	} else {
		err = json.Unmarshal(b, &results)
	}
	if err != nil {
		return nil, fmt.Errorf("read results %s: %w", path, err)
	}
	if err := Validate(results); err != nil {
		return nil, fmt.Errorf("read results %s: %w", path, err)
	}
	return results, nil
}
