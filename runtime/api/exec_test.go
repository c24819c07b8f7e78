package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 4, 0, 0, 0, 0})
	f.Add([]byte{6, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := bytes.NewReader(sent)
		var again bytes.Buffer
		for {
			s, p, err := ReadFrame(r, nil)
			if err != nil {
				if errors.Is(err, io.EOF) && again.Len() != len(sent) {
					t.Errorf("end at %d of %d bytes", again.Len(), len(sent))
				}
				break
			}
			if len(p) > MaxFrame && s != StreamRequest || len(p) > MaxExecRequest {
				t.Fatalf("stream %d: %d bytes", s, len(p))
			}
			if err := WriteFrame(&again, s, p); err != nil {
				t.Fatal(err)
			}
			_, _ = ParseExit(p)
			_, _ = ParseSize(p)
		}
		if !bytes.HasPrefix(sent, again.Bytes()) {
			t.Errorf("read %x as %x", sent, again.Bytes())
		}
	})
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, StreamStdin, make([]byte, MaxFrame+1)); err == nil || b.Len() > 0 {
		t.Error("a frame that is too long was written")
	}
	for _, code := range []int{0, 1, 255, -1} {
		if got, err := ParseExit(AppendExit(nil, code)); err != nil || got != code {
			t.Errorf("exit code %d became %d, %v", code, got, err)
		}
	}
	size := WindowSize{Rows: 1, Cols: 65535}
	if got, err := ParseSize(AppendSize(nil, size)); err != nil || got != size {
		t.Errorf("size became %v, %v", got, err)
	}
	if _, _, err := ReadFrame(strings.NewReader("\x01\x00\x00\x00\x05abc"), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame that is cut: %v", err)
	}
}

func TestDuration(t *testing.T) {
	b, err := json.Marshal(CloneRequest{Golden: "shop", TTL: Duration(90 * time.Minute)})
	if want := `{"golden":"shop","ttl":"1h30m0s"}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v, want %s", b, err, want)
	}
	var d Duration
	for _, wrong := range []string{"", "5", "-1s", "1 h", "soon"} {
		if err := d.UnmarshalText([]byte(wrong)); err == nil {
			t.Errorf("%q was read as %v", wrong, time.Duration(d))
		}
	}
}

func TestExitCodes(t *testing.T) {
	for code, want := range map[Code]int{
		CodeGeneral: 1, CodeUsage: 2, CodeNotFound: 3, CodeTimeout: 4, CodeCapacity: 5,
		CodeNotAllowed: 6, CodeGoldenInvalid: 7, CodeConflict: 8, "of a later version": 1,
	} {
		if got := code.ExitCode(); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
}
