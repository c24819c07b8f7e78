package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestMain(m *testing.M) {
	// Else the race detector waits a second at the end of each ctrsnap.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	testscript.Main(m, map[string]func(){"ctrsnap": main, "count-signals": countSignals, "ctrsnap-bench": fakeBench})
}

// fakeBench says what it was called with.
func fakeBench() {
	fmt.Println(strings.Join(os.Args, " "))
	fmt.Println("host", os.Getenv("CTRSNAP_HOST"))
	if slices.Contains(os.Args, "fail") {
		os.Exit(7)
	}
}

func urlPassword(s string) string {
	return strings.TrimPrefix(url.UserPassword("", s).String(), ":")
}

// TestScript runs testdata/*.txtar, each with a daemon of its own whose files are
// below $DAEMON.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", os.Getenv("GORACE"))
			dir, err := os.MkdirTemp("", "ctrsnap") //nolint:usetesting // $WORK's path may be too long for a socket
			if err != nil {
				return err
			}
			f := newFakeDaemon(t, dir)
			env.Defer(func() {
				f.stop()
				os.RemoveAll(dir)
			})
			env.Values["daemon"] = f
			env.Setenv("DAEMON", dir)
			env.Setenv("CTRSNAP_HOST", f.host())
			env.Setenv("CTRSNAP_OUTPUT", "")
			env.Setenv("CTRSNAP_TTL", "")
			env.Setenv("CI", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// clones N waits until the daemon has N clones.
			"clones": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				f := daemonOf(ts)
				if !f.wait(func() bool { return len(f.clones) == n }) {
					ts.Fatalf("the daemon has not %d clones", n)
				}
			},
			// followed waits until somebody follows the daemon's events.
			"followed": func(ts *testscript.TestScript, _ bool, _ []string) {
				f := daemonOf(ts)
				if !f.wait(func() bool { return f.followed }) {
					ts.Fatalf("nobody follows")
				}
			},
			"stop-daemon": func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).stop() },
			"drop-leases": func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).dropLeases() },
			// requests METHOD PATH checks that this was all that came since it was asked
			// last, on one connection; without arguments, it forgets what came.
			"requests": func(ts *testscript.TestScript, _ bool, args []string) {
				got, conns := daemonOf(ts).seen()
				if len(args) > 0 && (conns != 1 || len(got) != 1 || got[0] != strings.Join(args, " ")) {
					ts.Fatalf("requests %q on %d connections", got, conns)
				}
			},
			// wait-file FILE waits until it exists and has content.
			"wait-file": func(ts *testscript.TestScript, _ bool, args []string) { waitFile(ts, ts.MkAbs(args[0])) },
			// lines N FILE checks that it has N lines.
			"lines": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				if got := strings.Count(ts.ReadFile(args[1]), "\n"); got != n {
					ts.Fatalf("%s has %d lines, want %d:\n%s", args[1], got, n, ts.ReadFile(args[1]))
				}
			},
			// code N PROGRAM… runs a program that must end with exit code N.
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				if got := codeOf(err); strconv.Itoa(got) != args[0] {
					ts.Fatalf("exit code %d, want %s (%v)", got, args[0], err)
				}
			},
		},
	})
}

func daemonOf(ts *testscript.TestScript) *fakeDaemon { return ts.Value("daemon").(*fakeDaemon) }

func codeOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func waitFile(ts *testscript.TestScript, path string) {
	until(ts, path, func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() > 0
	})
}

func until(ts *testscript.TestScript, what string, ok func() bool) {
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.Tick(2 * time.Millisecond); time.Now().Before(deadline); <-tick {
		if ok() {
			return
		}
	}
	ts.Fatalf("waited too long for %s", what)
}

// TestExamples runs the examples of the help texts: what they show is true.
func TestExamples(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"psql", "go", "make"} {
		writeFile(t, filepath.Join(bin, name), "#!/bin/sh\nexit 0\n", 0o755)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	a := &app{getenv: os.Getenv, environ: os.Environ}
	n := 0
	var walk func(cmd *cli.Command, words string)
	walk = func(cmd *cli.Command, words string) {
		if len(cmd.Commands) == 0 && !strings.Contains(cmd.Description, words) {
			t.Errorf("%s has no example", words)
		}
		for line := range strings.SplitSeq(cmd.Description, "\n") {
			if strings.HasPrefix(line, "   ") && strings.Contains(line, "ctrsnap ") {
				n++
				if strings.Contains(line, ".zshrc") {
					continue // not for bash; its syntax is checked in completion.txtar
				}
				t.Run(strings.TrimSpace(line), func(t *testing.T) { runExample(t, line) })
			}
		}
		for _, sub := range cmd.Commands {
			walk(sub, words+" "+sub.Name)
		}
	}
	walk(a.root(nil), "ctrsnap")
	if n < 25 {
		t.Errorf("only %d examples found", n)
	}
}

func runExample(t *testing.T, line string) {
	dir := shortDir(t)
	f := newFakeDaemon(t, dir)
	t.Cleanup(f.stop)
	f.goldens = append(f.goldens, api.Golden{Name: "shop", Version: 2}, api.Golden{Name: "shop", Version: 3})
	f.clones["pr-42"] = f.newClone(f.goldens[0], api.CloneRequest{Name: "pr-42"}, "")
	f.added = &api.Engine{Name: "etcd", Scripts: []string{".sh"}}
	for _, name := range []string{"etcd.toml", "seed.sh", "schema.sql", "shop.dump", "mask.sql", "db/migrations/1.sql", ".config/fish/completions/x"} {
		writeFile(t, filepath.Join(dir, name), "select 1;", 0o600)
	}
	cmd := exec.Command("bash", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "CTRSNAP_HOST="+f.host())
	out, err := cmd.CombinedOutput()
	finding := strings.HasSuffix(line, " doctor") && codeOf(err) == 1 // the fake has one
	if err != nil && !finding {
		t.Errorf("%v\n%s", err, out)
	}
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctrsnap") //nolint:usetesting // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
