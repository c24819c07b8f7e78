package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// maxErrorBody bounds what is read of an answer that is an error, in bytes.
const maxErrorBody = 1 << 20

// explain turns an error of the way to the daemon into one for people.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &api.Error{
			Code:      api.CodeGeneral,
			Message:   "daemon is not running at " + c.host,
			Hint:      "start ctrsnapd, or set CTRSNAP_HOST",
			Retryable: true,
		}
	case errors.Is(err, fs.ErrPermission):
		return &api.Error{
			Code:    api.CodeNotAllowed,
			Message: "not allowed to connect to " + c.host,
			Hint:    "run as root or as a member of the group ctrsnap",
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &api.Error{
			Code:    api.CodeGeneral,
			Message: "daemon at " + c.host + " closed the connection before it had answered",
			Hint:    "see the log of ctrsnapd",
		}
	}
	return fmt.Errorf("talk to daemon at %s: %w", c.host, err)
}

// readError returns the error that an answer carries.
func (c *Client) readError(resp *http1.Response) error {
	var body api.ErrorBody
	err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&body)
	if err == nil && body.Error != nil {
		body.Error.Status = resp.StatusCode
		return body.Error
	}
	return &api.Error{
		Status:  resp.StatusCode,
		Code:    api.CodeGeneral,
		Message: fmt.Sprintf("unexpected answer %q from %s", resp.Status, c.host),
		Hint:    "is it ctrsnapd that listens there? see CTRSNAP_HOST",
	}
}
