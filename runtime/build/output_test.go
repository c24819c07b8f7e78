package build

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func testOutput(t *testing.T) (o *output, now *time.Time, got *[]string) {
	t.Helper()
	got = &[]string{}
	o, err := openOutput(t.TempDir(), "b00000000000", func(e api.BuildEvent) {
		*got = append(*got, fmt.Sprint(e.Type, " ", e.Step, e.Log, e.Done))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.close() })
	*got = nil
	now = &time.Time{}
	*now = time.Unix(1000, 0)
	o.now = func() time.Time { return *now }
	return o, now, got
}

func TestProgressIsThrottled(t *testing.T) {
	o, now, got := testOutput(t)
	o.step("a")
	for i := range int64(100) {
		o.report(i, 0)
		*now = now.Add(5 * time.Millisecond)
	}
	o.step("b")
	o.report(7, 0)
	o.report(8, 0)
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	o.step("after the end")
	want := []string{
		"step a0", "progress 0", "progress 20", "progress 40", "progress 60", "progress 80", "progress 99",
		"step b0", "progress 7", "progress 8",
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Error(diff)
	}
}

func TestLogIsBounded(t *testing.T) {
	o, _, got := testOutput(t)
	line := strings.Repeat("x", 1023) + "\n"
	for range maxLogFile/1024 + 10 {
		o.log(line)
	}
	if n := len(*got); n != maxLogEvents/1024+1 || !strings.HasPrefix((*got)[n-1], "log (the rest") {
		t.Errorf("%d events, last %.30s", n, (*got)[n-1])
	}
	fi, err := os.Stat(o.path)
	if err != nil || fi.Size() > maxLogFile+1024 || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestLines(t *testing.T) {
	var got []string
	var last tail
	w := &lineWriter{emit: func(lines string) { got = append(got, lines); last.add(lines) }}
	for _, s := range []string{"a", "b\nc\nd", "", "e", "\n", "\x00dump\n", strings.Repeat("x", maxLine), "yy", "end"} {
		_, _ = w.Write([]byte(s))
	}
	w.Close()
	want := []string{"ab\nc\n", "de\n", strings.Repeat("x", maxLine) + "yy\n", "end\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i := range 1000 {
		last.add(fmt.Sprintf("line %d\n", i))
	}
	if lines := strings.Split(last.String(), "\n"); len(lines) != tailLines || lines[tailLines-1] != "line 999" {
		t.Errorf("tail %q", lines)
	}
}
