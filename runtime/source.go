package runtime

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// SourceError says that what a golden was to be built from is wrong: a script
// that fails, a dump that is cut short, a data directory of another version.
// It is of class InvalidArgument.
type SourceError struct {
	File    string // the source as the caller named it, "schema.sql"
	Line    int    // in File, from 1; 0 if unknown
	Message string // what the server or the restoring program said
}

func (e *SourceError) Error() string {
	switch {
	case e.File == "":
		return e.Message
	case e.Line == 0:
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Unwrap returns the error's class.
func (e *SourceError) Unwrap() error { return errdefs.ErrInvalidArgument }
