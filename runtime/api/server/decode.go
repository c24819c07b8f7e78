package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// decode reads a JSON document that is not a request body of its own, with the
// same rules as those.
func decode[T any](registry huma.Registry, r io.Reader) (T, error) {
	var out T
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return out, badBody(err)
	}
	if len(b) > maxJSON {
		return out, usage(http.StatusRequestEntityTooLarge, fmt.Sprintf("invalid request: more than %d bytes of JSON", maxJSON), "")
	}
	var parsed any
	if err := json.Unmarshal(b, &parsed); err != nil {
		return out, badBody(err)
	}
	res := &huma.ValidateResult{}
	schema := registry.Schema(reflect.TypeFor[T](), true, "")
	huma.Validate(registry, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, parsed, res)
	if len(res.Errors) > 0 {
		return out, invalid(http.StatusBadRequest, "", details(res.Errors))
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, badBody(err)
	}
	return out, nil
}

func badBody(err error) error {
	return usage(http.StatusBadRequest, "invalid request: "+err.Error(), "see /openapi.json")
}

func details(errs []error) []*huma.ErrorDetail {
	var out []*huma.ErrorDetail
	for _, err := range errs {
		if d, ok := err.(huma.ErrorDetailer); ok {
			out = append(out, d.ErrorDetail())
		} else {
			out = append(out, &huma.ErrorDetail{Message: err.Error()})
		}
	}
	return out
}
