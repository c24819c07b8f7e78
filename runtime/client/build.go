package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Part is one file of a build.
type Part struct {
	Kind string // api.PartInit and so on
	Name string // plain file name
	// Open is called when the part's turn has come; what it returns is closed.
	Open func() (io.ReadCloser, error)
}

// Build builds a golden. The parts are streamed. onEvent takes every event while
// they are, in order and from one goroutine, and must answer an event of type
// "exec" by [api.AnswerBuild], with the event's token; its error ends the build and is returned. existed says
// that a golden with the wanted key was there. When ctx ends, so does the build.
func (c *Client) Build(ctx context.Context, spec api.BuildRequest, parts []Part, onEvent func(api.BuildEvent) error) (g api.Golden, existed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, sent := streamForm(ctx, spec, parts)
	defer func() {
		select {
		case sendErr := <-sent:
			// A file that could not be read counts for more than what the
			// daemon says about a body that is cut.
			if err != nil && sendErr != nil {
				err = sendErr
			}
		default:
			_ = body.Close()
			cancel()
			<-sent //nolint:errcheck // of a body that nobody wants any more
		}
	}()
	req := http1.Request{Header: map[string]string{"Content-Type": body.contentType}, Stream: body}
	resp, err := open(ctx, c, api.BuildGolden, api.None{}, req)
	if err != nil {
		return api.Golden{}, false, err
	}
	defer resp.Body.Close()
	return c.readEvents(ctx, resp.Body, onEvent)
}

// readEvents passes events on until the last one.
func (c *Client) readEvents(ctx context.Context, r io.Reader, onEvent func(api.BuildEvent) error) (api.Golden, bool, error) {
	dec := json.NewDecoder(r)
	for {
		var e api.BuildEvent
		if err := dec.Decode(&e); err != nil {
			return api.Golden{}, false, c.explain(ctx, fmt.Errorf("read build events: %w", err))
		}
		if onEvent != nil {
			if err := onEvent(e); err != nil {
				return api.Golden{}, false, err
			}
		}
		switch {
		case e.Type == api.EventError && e.Error != nil:
			return api.Golden{}, false, e.Error
		case e.Type == api.EventDone && e.Golden != nil:
			return *e.Golden, e.Existed, nil
		case e.Type == api.EventDone || e.Type == api.EventError:
			return api.Golden{}, false, fmt.Errorf("read build events: event %q without content", e.Type)
		}
	}
}

// formBody is a multipart body in the making.
type formBody struct {
	*io.PipeReader
	contentType string
}

// streamForm writes the form into a pipe while the body is read, so that no
// file is held in memory. sent gives the error of reading a part, or nil, once
// the body is at its end or closed, or ctx has ended.
func streamForm(ctx context.Context, req api.BuildRequest, parts []Part) (body formBody, sent <-chan error) {
	r, w := io.Pipe()
	form := multipart.NewWriter(w)
	done := make(chan error, 1)
	go func() {
		err := writeForm(ctx, form, req, parts)
		if errors.Is(err, io.ErrClosedPipe) {
			err = nil // the reader went first
		}
		done <- err // before the reader can see it
		w.CloseWithError(err)
	}()
	return formBody{r, form.FormDataContentType()}, done
}

func writeForm(ctx context.Context, form *multipart.Writer, req api.BuildRequest, parts []Part) error {
	w, err := form.CreateFormField(api.PartSpec)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(req); err != nil {
		return err
	}
	for _, p := range parts {
		if err := writePart(ctx, form, p); err != nil {
			return err
		}
	}
	return form.Close()
}

func writePart(ctx context.Context, form *multipart.Writer, p Part) error {
	f, err := p.Open()
	if err != nil {
		return fmt.Errorf("open %s: %w", p.Name, err)
	}
	defer f.Close()
	// A pipe may have nothing to be read for long.
	defer context.AfterFunc(ctx, func() { f.Close() })()
	w, err := form.CreateFormFile(p.Kind, p.Name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("send %s: %w", p.Name, err)
	}
	return nil
}
