package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/danielgtaylor/huma/v2"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// failure is an error as it goes out.
type failure struct {
	api.ErrorBody
	status int
}

// Error returns the message, GetStatus the HTTP status: a failure is a
// [huma.StatusError].
func (f *failure) Error() string { return f.ErrorBody.Error.Message }

// GetStatus returns the HTTP status.
func (f *failure) GetStatus() int { return f.status }

var _ huma.StatusError = (*failure)(nil)

// classes says how classes of errors go out; the first that fits counts.
var classes = []struct {
	is        func(error) bool
	code      api.Code
	status    int
	retryable bool
}{
	{isStopping, api.CodeGeneral, http.StatusServiceUnavailable, true},
	{isSourceError, api.CodeGoldenInvalid, http.StatusUnprocessableEntity, false},
	{errdefs.IsDataLoss, api.CodeGoldenInvalid, http.StatusUnprocessableEntity, false},
	{isHostFull, api.CodeCapacity, http.StatusInsufficientStorage, true},
	{isReadOnly, api.CodeGeneral, http.StatusServiceUnavailable, false},
	{isBroken, api.CodeGeneral, http.StatusServiceUnavailable, false},
	{errdefs.IsResourceExhausted, api.CodeCapacity, http.StatusTooManyRequests, true},
	{errdefs.IsNotFound, api.CodeNotFound, http.StatusNotFound, false},
	{errdefs.IsAlreadyExists, api.CodeConflict, http.StatusConflict, false},
	{errdefs.IsFailedPrecondition, api.CodeConflict, http.StatusConflict, false},
	{errdefs.IsConflict, api.CodeConflict, http.StatusConflict, false},
	{errdefs.IsAborted, api.CodeConflict, http.StatusConflict, true},
	{errdefs.IsInvalidArgument, api.CodeUsage, http.StatusBadRequest, false},
	{errdefs.IsOutOfRange, api.CodeUsage, http.StatusBadRequest, false},
	{errdefs.IsDeadlineExceeded, api.CodeTimeout, http.StatusGatewayTimeout, true},
	{errdefs.IsPermissionDenied, api.CodeNotAllowed, http.StatusForbidden, false},
	{errdefs.IsUnauthorized, api.CodeNotAllowed, http.StatusForbidden, false},
	{errdefs.IsUnavailable, api.CodeGeneral, http.StatusServiceUnavailable, true},
	{errdefs.IsNotImplemented, api.CodeUsage, http.StatusNotImplemented, false},
	// Nobody reads it: the client is gone. It is not an internal error, though.
	{errdefs.IsCanceled, api.CodeGeneral, statusClientGone, false},
}

// statusClientGone is the status that access logs know for a client that did
// not wait; nginx began it.
const statusClientGone = 499

// newFailure says how err goes out.
func newFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var e *api.Error
	if errors.As(err, &e) {
		own := *e
		return &failure{api.ErrorBody{Error: &own}, statusOf(e.Code)}
	}
	f = &failure{api.ErrorBody{Error: &api.Error{Code: api.CodeGeneral, Message: forPeople(err.Error())}}, http.StatusInternalServerError}
	for _, c := range classes {
		if c.is(err) {
			f.ErrorBody.Error.Code, f.ErrorBody.Error.Retryable, f.status = c.code, c.retryable, c.status
			break
		}
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		f.ErrorBody.Error.Hint = h.Hint()
	} else if isReadOnly(err) {
		f.ErrorBody.Error.Hint = "the kernel lets nobody write there, as after an error of the disk: see dmesg, mend it, and mount it writable"
	} else if isBroken(err) {
		f.ErrorBody.Error.Hint = "the disk has failed, or the filesystem has stopped after an error of it: see dmesg, mend it, and restart ctrsnapd; clones end, goldens stay"
	}
	return f
}

// className is the text of a class of errors that says nothing to people: the code says it to programs.
var className = regexp.MustCompile(`: (?:failed precondition|invalid argument|resource exhausted|aborted|conflict|out of range|data loss|unavailable)($|[:;,)\n])`)

// forPeople leaves the names of classes away.
func forPeople(message string) string { return className.ReplaceAllString(message, "$1") }

// statusOf returns the HTTP status of a code that the daemon itself chose.
func statusOf(code api.Code) int {
	for _, c := range classes {
		if c.code == code && code != api.CodeGeneral {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

// usage is a request that is wrong in itself.
func usage(status int, message, hint string) *failure {
	return &failure{api.ErrorBody{Error: &api.Error{Code: api.CodeUsage, Message: message, Hint: hint}}, status}
}

// fail turns err into what goes out. An internal error is logged, with the id
// that the caller is shown too.
func (s *Server) fail(ctx context.Context, err error) *failure {
	if cause := context.Cause(ctx); errors.Is(cause, runtime.ErrStopping) && errors.Is(err, context.Canceled) {
		err = cause
	}
	f := newFailure(err)
	if f.status == http.StatusInternalServerError {
		id := callOf(ctx).id
		s.log.ErrorContext(ctx, "internal error", "request", id, "error", err)
		if f.ErrorBody.Error.Hint == "" {
			f.ErrorBody.Error.Hint = "see request " + id + " in the log of ctrsnapd"
		}
	}
	return f
}

// refuse answers with err.
func (s *Server) refuse(ctx context.Context, w http.ResponseWriter, err error) {
	f := s.fail(ctx, err)
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // it is made of strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(f.status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

// invalid turns what huma found wrong with a request into a failure. Values are
// left out: they may be secrets.
func invalid(status int, detail string, errs []*huma.ErrorDetail) *failure {
	var all []string
	for _, e := range errs {
		where := strings.TrimPrefix(strings.TrimPrefix(e.Location, "body"), ".")
		if where != "" {
			where += ": "
		}
		all = append(all, where+e.Message)
	}
	slices.Sort(all)
	if len(all) == 0 {
		all = []string{detail}
	}
	if status == http.StatusUnprocessableEntity {
		status = http.StatusBadRequest
	}
	return usage(status, "invalid request: "+strings.Join(slices.Compact(all), "; "), "see /openapi.json")
}

func isSourceError(err error) bool {
	var e *runtime.SourceError
	return errors.As(err, &e)
}

func isStopping(err error) bool { return errors.Is(err, runtime.ErrStopping) }

// isReadOnly says whether a filesystem of the daemon's does not let it write.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// isBroken says whether a disk of the daemon's has an error.
func isBroken(err error) bool { return errors.Is(err, syscall.EIO) }

// isHostFull says whether the host has run out of disk or of files that can be open.
func isHostFull(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
