package server

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// durationSchema describes api.Duration, which must not know huma.
type durationSchema struct{}

// Schema implements huma.SchemaProvider.
func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type:               huma.TypeString,
		Pattern:            `^(0|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$`,
		PatternDescription: "a duration such as 90s, 30m or 2h",
		Examples:           []any{"1h30m0s"},
	}
}

// requests are the types whose documents are sent, not received. Unknown fields
// are refused there; elsewhere clients must expect new ones.
var requests = map[string]bool{
	"CloneRequest": true, "ExtendRequest": true, "BuildRequest": true, "ExecRequest": true, "HostResult": true,
	"PoolRequest": true, "AccessRequest": true, "AttachRequest": true,
}

// tidy makes the document say what the server does: arrays are never null, and
// errors are ours.
func tidy(doc *huma.OpenAPI) {
	schemas := doc.Components.Schemas
	schemas.Schema(reflect.TypeFor[api.ErrorBody](), true, "")
	delete(schemas.Map(), "ErrorModel")
	delete(schemas.Map(), "ErrorDetail")
	for name, schema := range schemas.Map() {
		notNull(schema)
		if !requests[name] {
			schema.AdditionalProperties = nil
		}
	}
	for _, path := range doc.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Post, path.Delete} {
			if op == nil {
				continue
			}
			for _, p := range op.Parameters {
				notNull(p.Schema)
			}
			for _, resp := range op.Responses {
				for _, m := range resp.Content {
					notNull(m.Schema)
				}
			}
		}
	}
}

func notNull(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	notNull(s.Items)
	for _, p := range s.Properties {
		notNull(p)
	}
}
