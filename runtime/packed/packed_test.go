package packed

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func zipped(texts ...string) string {
	var b bytes.Buffer
	for _, text := range texts {
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, text)
		_ = z.Close()
	}
	return b.String()
}

// Files come out as gzip, zstd and xz would have them, padded ones, too.
func TestUnpack(t *testing.T) {
	var zst, xzs bytes.Buffer
	z, _ := zstd.NewWriter(&zst)
	_, _ = z.Write([]byte("text"))
	_ = z.Close()
	x, _ := xz.NewWriter(&xzs)
	_, _ = x.Write([]byte("text"))
	_ = x.Close()
	zeros := strings.Repeat("\x00", 5000)
	for in, want := range map[string]string{
		"text": "text", "": "", zst.String(): "text", xzs.String(): "text",
		zipped("te", "", "xt"): "text", zipped("text") + zeros: "text", zipped("text") + "\x00": "text",
		zipped("text") + "garbage": "ERR", zipped("text") + zeros + zipped("more"): "ERR", zipped("text")[:15]: "ERR",
		zipped("te") + zipped("xt")[:15]: "ERR", xzs.String()[:20]: "ERR", xzs.String()[:xzs.Len()-3]: "ERR", xzs.String()[:xzs.Len()/2]: "ERR", xzs.String() + "\x00\x00\x00\x00": "text",
		xzs.String() + xzs.String(): "texttext",
	} {
		got, err := []byte(nil), error(nil)
		r, err := Unpack(strings.NewReader(in))
		if err == nil {
			got, err = io.ReadAll(iotestSmall{r})
		}
		if err != nil {
			got = []byte("ERR")
		}
		if string(got) != want {
			t.Errorf("%.40q: got %q, want %q (%v)", in, got, want, err)
		}
	}
}

// iotestSmall reads a few bytes at a time.
type iotestSmall struct{ r io.Reader }

func (s iotestSmall) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 3)]) }
