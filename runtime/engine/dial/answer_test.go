package dial

import (
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestAnswer(t *testing.T) {
	a := &Answer{Limit: 10}
	if _, err := io.Copy(a, strings.NewReader("0123456789")); err != nil || a.String() != "0123456789" {
		t.Errorf("%q, %v", a, err)
	}
	if n, err := a.Write([]byte("x")); n != 0 || !errdefs.IsInvalidArgument(err) || len(a.Bytes()) != 10 {
		t.Errorf("%d, %v, %q", n, err, a)
	}
	a.Reset()
	// io.Copy is not to find a way past Write.
	if _, err := io.Copy(a, strings.NewReader(strings.Repeat("x", 1<<20))); !errdefs.IsInvalidArgument(err) || len(a.Bytes()) > 10 {
		t.Errorf("copy: %d bytes, %v", len(a.Bytes()), err)
	}
}
