package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// TestStopKeepsLeases stops the daemon under jobs that hold leases, in order and by force, and starts it again, also as
// another binary, while others make and remove clones: nobody loses a clone but who does not come back for it.
func TestStopKeepsLeases(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, fmt.Sprintf("[clone]\nlease_grace = \"3s\"\n[containerd]\nbin_dirs = [%q]\n", binDir()))
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	jobs := startJobs(t, d, 4)
	var leases []*client.Lease
	var clones []api.Clone
	for range 4 {
		lease, c := leasedClone(t, d)
		defer lease.Close()
		leases, clones = append(leases, lease), append(clones, c)
	}
	held := curlLease(t, d)
	clones = append(clones, held.clone)
	stopLoad := makeClones(t, d, 2)

	for i, how := range []struct {
		signal  syscall.Signal
		program string
	}{{syscall.SIGTERM, copyDaemon(t, d)}, {syscall.SIGKILL, ""}, {syscall.SIGTERM, ""}} {
		lost, gone := leasedClone(t, d)
		d.stop(how.signal)
		lost.Close()
		for _, url := range append(jobs.urls(), held.clone.URL) {
			query(t, url, fmt.Sprintf("INSERT INTO users VALUES (%d, 'without a daemon')", 3000+i))
		}
		d.program = how.program
		d.start()
		waitFor(t, "the clone of a lease that nobody takes up to go", func() bool {
			_, err := client.Do(t.Context(), d.client, api.GetClone, api.CloneArgs{ID: gone.ID})
			return err != nil
		})
		for _, c := range clones {
			if _, err := client.Do(t.Context(), d.client, api.GetClone, api.CloneArgs{ID: c.ID}); err != nil {
				t.Errorf("stop %d by %v: %v", i, how.signal, err)
			}
		}
		for _, lease := range leases {
			if err := lease.Err(); err != nil {
				t.Errorf("stop %d by %v: %v", i, how.signal, err)
			}
		}
		for _, url := range append(jobs.urls(), held.clone.URL) {
			if got := query(t, url, "SELECT count(*) FROM users"); got != fmt.Sprint(1001+i) {
				t.Errorf("stop %d by %v: %s rows", i, how.signal, got)
			}
		}
	}
	stopLoad()
	jobs.end()
	held.end()
	for _, lease := range leases {
		lease.Close()
	}
	waitFor(t, "all clones to go with their leases", func() bool { return d.run("ls", "--format", "{{.id}}") == "" })
}

// copyDaemon puts the daemon's program elsewhere, as an upgrade does.
func copyDaemon(t *testing.T, d *daemon) string {
	t.Helper()
	path := filepath.Join(d.work, "upgrade", "ctrsnapd")
	d.file("upgrade/ctrsnapd", string(mustRead(t, filepath.Join(binDir(), "ctrsnapd"))))
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// leased asks for a clone that lives by a lease.
var leased = api.CreateArgs{Body: api.CloneRequest{Golden: "shop", Lease: api.LeaseConnection}}

// leasedClone makes a clone and holds its lease.
func leasedClone(t *testing.T, d *daemon) (*client.Lease, api.Clone) {
	t.Helper()
	resp, err := client.Do(t.Context(), d.client, api.CreateClones, leased)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := d.client.HoldLease(context.WithoutCancel(t.Context()), resp.LeaseID)
	if err != nil {
		t.Fatal(err)
	}
	return lease, resp.Clones[0]
}

// jobs are commands of `ctrsnap run` that wait for their end.
type jobs struct {
	t    *testing.T
	list []*job
}

type job struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer
	url    string
}

func startJobs(t *testing.T, d *daemon, n int) *jobs {
	t.Helper()
	all := &jobs{t: t}
	for i := range n {
		file := filepath.Join(d.work, fmt.Sprintf("job-%d", i))
		j := &job{cmd: d.command(t.Context(), "run", "shop", "--", "sh", "-c", `echo "$DATABASE_URL" >$0.new && mv $0.new $0 && ! read wait`, file)}
		j.cmd.Stderr = &j.stderr
		stdin, err := j.cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		j.stdin = stdin
		if err := j.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "a job to run", func() bool { _, err := os.Stat(file); return err == nil })
		j.url = strings.TrimSpace(string(mustRead(t, file)))
		all.list = append(all.list, j)
	}
	return all
}

func (all *jobs) urls() []string {
	var urls []string
	for _, j := range all.list {
		urls = append(urls, j.url)
	}
	return urls
}

// end ends all commands, which must have noticed nothing.
func (all *jobs) end() {
	for i, j := range all.list {
		j.stdin.Close()
		if err := j.cmd.Wait(); err != nil || j.stderr.Len() > 0 {
			all.t.Errorf("job %d: %v, %s", i, err, j.stderr.String())
		}
	}
}

// curlHolder holds a lease with nothing but curl.
type curlHolder struct {
	clone api.Clone
	end   func()
}

// curlLease holds the lease of a clone by curl as README says.
func curlLease(t *testing.T, d *daemon) curlHolder {
	t.Helper()
	resp, err := client.Do(t.Context(), d.client, api.CreateClones, leased)
	if err != nil {
		t.Fatal(err)
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("needs curl")
	}
	cmd := exec.CommandContext(t.Context(), curl, "-sN", "--retry", "1000000", "--retry-delay", "1", "--retry-all-errors",
		"--unix-socket", filepath.Join(d.state, "ctrsnap.sock"), "http://ctrsnap/v1/leases/"+resp.LeaseID)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return curlHolder{resp.Clones[0], sync.OnceFunc(func() {
		if cmd.Process.Signal(syscall.SIGTERM) != nil {
			t.Error("curl has ended by itself")
		}
		_ = cmd.Wait()
	})}
}

// makeClones has callers make and remove clones until it is told to stop.
func makeClones(t *testing.T, d *daemon, callers int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Do(ctx, d.client, api.CreateClones, leased)
				if err == nil {
					_ = client.Tell(ctx, d.client, api.RemoveClone, api.RemoveArgs{ID: resp.Clones[0].ID}) // the daemon may be away; the lease ends it
				}
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}
