package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// form is a build request's body while it is read.
type form struct {
	ctx   context.Context
	parts *multipart.Reader
	tail  *tail
	last  []byte // the delimiter that ends the body
}

func openForm(ctx context.Context, r *http.Request) (*form, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	boundary := params["boundary"]
	if err != nil || kind != "multipart/form-data" || boundary == "" {
		return nil, usage(http.StatusBadRequest, "invalid request: want a multipart/form-data body", "see /openapi.json")
	}
	last := []byte("--" + boundary + "--")
	t := &tail{r: r.Body, keep: len(last) + len("\r\n")}
	return &form{ctx, multipart.NewReader(t, boundary), t, last}, nil
}

// spec returns the first part.
func (f *form) spec() (io.Reader, error) {
	p, err := f.parts.NextPart()
	if err != nil || p.FormName() != api.PartSpec {
		return nil, usage(http.StatusBadRequest, "invalid request: the first part is not "+api.PartSpec, "send the BuildRequest as form field "+api.PartSpec)
	}
	return p, nil
}

// next returns io.EOF itself only where the body has its proper end: one that
// was cut must not pass for a whole one. [multipart.Reader] says io.EOF also
// for a body that ends within the head of a part.
func (f *form) next() (api.Part, error) {
	p, err := f.parts.NextPart()
	switch {
	case f.ctx.Err() != nil:
		return api.Part{}, context.Cause(f.ctx)
	case errors.Is(err, io.EOF) && bytes.Contains(f.tail.bytes, f.last):
		return api.Part{}, io.EOF
	case errors.Is(err, io.EOF):
		return api.Part{}, errCut
	case err != nil:
		return api.Part{}, usage(http.StatusBadRequest, "invalid request: read form: "+err.Error(), "")
	}
	kind, name := p.FormName(), p.FileName()
	if !slices.Contains(api.Parts, kind) {
		return api.Part{}, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: unknown part %q", kind), "use "+strings.Join(api.Parts, ", "))
	}
	if name == "" {
		return api.Part{}, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: part %s has no file name", kind), "send it as a file")
	}
	return api.Part{Kind: kind, Name: name, Reader: &partReader{f.ctx, p}}, nil
}

var errCut = usage(http.StatusBadRequest, "invalid request: the body is cut", "")

// partReader gives the reason why a part could not be read to its end.
type partReader struct {
	ctx context.Context
	r   io.Reader
}

func (p *partReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	switch {
	case errors.Is(err, io.EOF), err == nil:
		return n, err
	case p.ctx.Err() != nil:
		return n, context.Cause(p.ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, errCut
	default:
		return n, fmt.Errorf("read part: %w", err)
	}
}

// tail remembers the last bytes that were read.
type tail struct {
	r     io.Reader
	keep  int
	bytes []byte
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.bytes = append(t.bytes, p[max(0, n-t.keep):n]...)
	t.bytes = append(t.bytes[:0], t.bytes[max(0, len(t.bytes)-t.keep):]...)
	return n, err
}
