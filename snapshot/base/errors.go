package base

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// pullError gives an error of a transfer its class and a hint. Errors that came
// from a containerd over its socket have lost their types, not their text.
func pullError(ctx context.Context, err error) error {
	text := err.Error()
	status := statusCode(err)
	switch {
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case isOutOfSpace(err):
		return outOfSpace(err)
	case containsAny(text, "no match for platform"):
		return wrongPlatform("other platforms")
	case errors.Is(err, docker.ErrInvalidAuthorization),
		status == http.StatusUnauthorized, status == http.StatusForbidden,
		containsAny(text, "pull access denied", "authorization failed"):
		return snapshot.WithHint(classify("denied", err, errdefs.ErrPermissionDenied),
			"the registry wants a login, or has no such repository; --image-archive takes what docker save wrote")
	case errdefs.IsNotFound(err), status == http.StatusNotFound:
		return snapshot.WithHint(classify("not in the registry", err, errdefs.ErrNotFound),
			"check the image's name and tag")
	case isUnreachable(err), status >= http.StatusInternalServerError, status == http.StatusTooManyRequests,
		containsAny(text, "dial tcp", "no such host", "connection refused", "i/o timeout", "TLS handshake",
			"x509:", "unexpected EOF", "connection reset"):
		return snapshot.WithHint(classify("registry unreachable", err, errdefs.ErrUnavailable),
			"without a registry: --from-host, or --image-archive with what docker save wrote")
	}
	return err
}

// classify gives err a class unless it has it.
func classify(what string, err, class error) error {
	if errors.Is(err, class) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, err, class)
}

var statusRE = regexp.MustCompile(`unexpected status from \S+ request to \S+: (\d{3})`)

// statusCode returns the HTTP status that a registry answered with, or 0.
func statusCode(err error) int {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode
	}
	if found := statusRE.FindStringSubmatch(err.Error()); found != nil {
		code, _ := strconv.Atoi(found[1]) // three digits
		return code
	}
	return 0
}

func isUnreachable(err error) bool {
	var network net.Error
	return errors.As(err, &network)
}

func hasHint(err error) bool {
	var h interface{ Hint() string }
	return errors.As(err, &h)
}

// archiveError says that an archive is to blame, unless something else is: the
// caller who left, the reader that broke, a full disk, containerd.
func archiveError(ctx context.Context, name string, read, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("import archive %s: %w", name, errors.Join(context.Cause(ctx), err))
	case read != nil:
		return fmt.Errorf("import archive %s: read: %w", name, read)
	case isOutOfSpace(err):
		return fmt.Errorf("import archive %s: %w", name, outOfSpace(err))
	case errdefs.IsUnavailable(err), errdefs.IsFailedPrecondition(err), errdefs.IsInternal(err), hasHint(err):
		return fmt.Errorf("import archive %s: %w", name, err)
	}
	return snapshot.WithHint(classify("archive "+name+" is not an image", err, errdefs.ErrInvalidArgument),
		"an archive is what 'docker save IMAGE' writes, or an OCI image layout in a tar; gzip and zstd are fine")
}
