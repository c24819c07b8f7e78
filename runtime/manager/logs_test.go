package manager

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

var noStdio runtime.Stdio

func TestSeekTail(t *testing.T) {
	var big strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&big, "line %d\n", i)
	}
	path := filepath.Join(t.TempDir(), "log")
	for _, text := range []string{"", "a", "a\n", "a\nb", "a\nb\n", "\n\n\n", big.String()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(text, "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		for _, n := range []int{-1, 0, 1, 2, 3, 15000, 100000} {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := seekTail(f, n); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(f)
			f.Close()
			want := strings.Join(lines, "")
			if n >= 0 {
				want = strings.Join(lines[max(0, len(lines)-n):], "")
			}
			if string(got) != want {
				t.Errorf("last %d of %.20q: got %.40q, want %.40q", n, text, got, want)
			}
		}
	}
}

func TestLogs(t *testing.T) {
	for name, end := range map[string]func(*Manager, *fakeTask){
		"server ends": func(_ *Manager, task *fakeTask) { task.log(t, "bye\n"); task.end(0) },
		"removed": func(m *Manager, task *fakeTask) {
			task.log(t, "bye\n")
			m.Remove(t.Context(), access.Daemon, task.c.ID, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m, _ := w.manager(t)
			c := create(t, m, api.CloneRequest{}).Clones[0]
			task := w.task(c.ID)
			task.log(t, "one\ntwo\n")
			var got bytes.Buffer
			if err := m.Logs(t.Context(), access.Daemon, c.ID, 1, false, &got); err != nil || got.String() != "two\n" {
				t.Errorf("got %q, %v", got.String(), err)
			}
			r, wr := io.Pipe()
			done := make(chan error, 1)
			go func() { done <- m.Logs(t.Context(), access.Daemon, c.ID, 1, true, wr); wr.Close() }()
			expect(t, r, "two\n")
			task.log(t, "three\n")
			expect(t, r, "three\n")
			go io.Copy(io.Discard, r)
			end(m, task)
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, want %q, %v", got, want, err)
	}
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	c := create(t, m, api.CloneRequest{}).Clones[0]
	var got runtime.Process
	var first runtime.WindowSize
	w.task(c.ID).exec = func(p runtime.Process, size <-chan runtime.WindowSize) int {
		got = p
		if size != nil {
			first = <-size
		}
		return 9
	}
	code, err := m.Exec(t.Context(), access.Daemon, c.ID, api.ExecRequest{
		Args: []string{"sh"}, Env: []string{"A=mine", "B=2"}, Cwd: "/x", User: "12:34", Terminal: true, Rows: 3, Cols: 4,
	}, noStdio, nil)
	want := runtime.Process{
		Args: []string{"sh"}, Env: []string{"C=1", "TERM=xterm", "A=mine", "B=2"}, Cwd: "/x", UID: 12, GID: 34, Terminal: true,
	}
	if diff := cmp.Diff(want, got); err != nil || code != 9 || diff != "" || first != (runtime.WindowSize{Rows: 3, Cols: 4}) {
		t.Errorf("got %d, %v, %v, %s", code, err, first, diff)
	}
	for _, req := range []api.ExecRequest{{}, {Args: []string{"x"}, Cwd: "x"}, {Args: []string{"x"}, User: "a:b"}} {
		if _, err := m.Exec(t.Context(), access.Daemon, c.ID, req, noStdio, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if _, err := m.Exec(t.Context(), access.Daemon, c.ID, api.ExecRequest{Args: []string{"x"}, User: "nobody-at-all"}, noStdio, nil); !errdefs.IsNotFound(err) {
		t.Errorf("unknown user: %v", err)
	}
	if _, err := m.Exec(t.Context(), access.Daemon, c.ID, api.ExecRequest{Args: []string{"x"}, User: "root"}, noStdio, nil); err != nil || got.UID != 0 {
		t.Errorf("root: %v, %+v", err, got)
	}
	client, err := m.Client(t.Context(), access.Daemon, c.ID, []string{"-c", "x"})
	if diff := cmp.Diff(api.ClientRequest{Args: []string{"/client", "-c", "x"}, Env: []string{"C=1"}}, client); err != nil || diff != "" {
		t.Errorf("client: %v, %s", err, diff)
	}
}

// TestExecBounds has as many commands run as there may be, in one clone and of one user.
func TestExecBounds(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	c := create(t, m, api.CloneRequest{}).Clones[0]
	begun, finish := make(chan bool), make(chan bool)
	w.task(c.ID).exec = func(runtime.Process, <-chan runtime.WindowSize) int {
		begun <- true
		<-finish
		return 0
	}
	run := func() error {
		_, err := m.Exec(t.Context(), access.Daemon, c.ID, api.ExecRequest{Args: []string{"sh"}}, noStdio, nil)
		return err
	}
	ended := make(chan error)
	for range execsOfClone {
		go func() { ended <- run() }()
		<-begun
	}
	if err := run(); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), c.ID) {
		t.Errorf("one more: %v", err)
	}
	close(finish)
	for range execsOfClone {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	go func() { <-begun }()
	if err := run(); err != nil {
		t.Errorf("after they have ended: %v", err)
	}
	if n := len(m.execs.byClone) + len(m.execs.byUser); n != 0 {
		t.Errorf("%d counts are left", n)
	}

	var e execs
	ann, root := access.User("ann", 1000), access.User("root", 0).AsAdmin()
	var end func()
	for i := range execsOfUser {
		var err error
		if end, err = e.begin(ann, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.begin(ann, "x"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more of a user: %v", err)
	}
	for _, caller := range []access.Caller{access.User("bob", 1001), root} {
		if _, err := e.begin(caller, "x"); err != nil {
			t.Errorf("another: %v", err)
		}
	}
	end()
	if _, err := e.begin(ann, "x"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestSearchPasswd(t *testing.T) {
	const passwd = "root:x:0:0:r:/:/bin/sh\nbroken\npostgres:x:101:103::/:\nodd:x:a:b\n"
	for user, want := range map[string][2]uint32{"root": {0, 0}, "postgres": {101, 103}, "101": {101, 103}} {
		uid, gid, ok := searchPasswd(strings.NewReader(passwd), user)
		if !ok || uid != want[0] || gid != want[1] {
			t.Errorf("%s: got %d:%d, %t", user, uid, gid, ok)
		}
	}
	for _, user := range []string{"odd", "x", "4294967295", "post"} {
		if _, _, ok := searchPasswd(strings.NewReader(passwd), user); ok {
			t.Errorf("found %s", user)
		}
	}
}
