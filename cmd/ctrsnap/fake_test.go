package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// hostilePassword holds what shells, .env files, URLs and logs trip over.
const hostilePassword = `p'a"$(touch pwned)\ ` + "`id`" + `%41;#é`

// postgres is what the daemon tells of its default engine.
var postgres = api.Engine{
	Schema: 1, Name: "postgres", BuiltIn: true, Scripts: []string{".sql", ".sh"}, DumpDir: "toc.dat", DataDir: []string{"PG_VERSION"},
	LinkedDirs: []string{"pg_wal", "pg_xlog"}, SkippedDirs: []string{"log"}, PIDFile: "postmaster.pid",
	Processes: []string{"postgres", "postmaster"}, PasswordEnv: "PGPASSWORD", Settings: true,
}

// fakeDaemon is ctrsnapd's API over maps: what the command line sees of it.
type fakeDaemon struct {
	dir string // takes the files of builds

	mu       sync.Mutex
	changed  *sync.Cond
	next     int
	clones   map[string]*api.Clone
	goldens  []api.Golden
	sizes    map[string]int // of pools
	answers  map[string]chan api.HostResult
	last     api.BuildRequest
	added    *api.Engine // by engine add
	drop     []func()    // ends held leases
	followed bool        // somebody follows events
	stop     func()

	conns    atomic.Int64 // connections so far
	requests []string     // "METHOD PATH" since they were looked at last
}

// counted notes each request.
func (f *fakeDaemon) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// seen returns the requests since it was called last, and on how many connections
// they came.
func (f *fakeDaemon) seen() (requests []string, conns int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	requests, f.requests = f.requests, nil
	return requests, int(f.conns.Swap(0))
}

func newFakeDaemon(t testing.TB, dir string) *fakeDaemon {
	f := &fakeDaemon{dir: dir, clones: map[string]*api.Clone{}, sizes: map[string]int{}, answers: map[string]chan api.HostResult{}}
	f.changed = sync.NewCond(&f.mu)
	for _, name := range []string{"shop", "orders", "hostile"} {
		f.goldens = append(f.goldens, api.Golden{
			Schema: 1, Name: name, Version: 1, Current: true, Engine: "postgres", EngineVersion: "15.18",
			Base: api.Base{Kind: "host", Ref: "postgresql 15.18"}, SizeBytes: 1 << 20, CreatedAt: time.Now(),
		})
	}
	f.goldens[0].Key = "sha256:old"
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(f.counted(f.routes()))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			f.conns.Add(1)
		}
	}
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	f.stop = sync.OnceFunc(func() {
		f.dropLeases()
		srv.CloseClientConnections()
		srv.Close()
	})
	return f
}

func (f *fakeDaemon) engines() []api.Engine {
	list := []api.Engine{postgres, {Schema: 1, Name: "redis", BuiltIn: true, Scripts: []string{".redis", ".sh"}, DataDir: []string{"dump.rdb"}}, {Name: "mariadb"}}
	if f.added != nil {
		list = append(list, *f.added)
	}
	return list
}

func (f *fakeDaemon) host() string { return "unix://" + filepath.Join(f.dir, "s") }

func (f *fakeDaemon) routes() http.Handler {
	mux := http.NewServeMux()
	json := func(pattern string, h func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			v, err := h(r)
			f.changed.Broadcast()
			f.mu.Unlock()
			answer(w, v, err)
		})
	}
	json("GET /v1/version", func(*http.Request) (any, error) {
		return api.Version{Schema: 1, Version: "1.2.3", Protocol: 1, MinProtocol: 1, Containerd: "2.4.2", Embedded: true}, nil
	})
	json("GET /v1/doctor", func(*http.Request) (any, error) {
		return api.Doctor{Schema: 1, Checks: []api.Check{
			{Name: "storage", Status: "ok", Detail: "xfs with reflink"},
			{Name: "runc", Status: "error", Detail: "not found", Why: "clones run in it", Fix: "install runc"},
		}}, nil
	})
	garbage := func(removed bool) func(*http.Request) (any, error) {
		return func(*http.Request) (any, error) {
			return api.GC{Schema: 1, Removed: removed, Kinds: []api.GCKind{
				{Kind: "mounts", Used: 2, Orphans: []string{"/run/ctrsnap/builds/b1"}},
				{Kind: "cgroups", Orphans: []string{}},
			}}, nil
		}
	}
	json("GET /v1/gc", garbage(false))
	json("POST /v1/gc", garbage(true))
	json("POST /v1/doctor/fix", func(*http.Request) (any, error) {
		return api.Doctor{Schema: 1, Checks: []api.Check{{Name: "storage", Status: "ok", Detail: "xfs with reflink (mended)"}}}, nil
	})
	json("GET /v1/stats", func(*http.Request) (any, error) {
		return api.Stats{Schema: 1, Clones: []api.Clone{{ID: "c1", Golden: "shop", DiskBytes: 1 << 20, Limits: api.Limits{DiskBytes: 1 << 30}}}}, nil
	})
	mux.HandleFunc("GET /v1/events", f.events)
	json("GET /v1/goldens", func(r *http.Request) (any, error) {
		list := []api.Golden{}
		for _, g := range f.goldens {
			if n := r.URL.Query().Get("name"); n == "" || n == g.Name {
				list = append(list, g)
			}
		}
		return list, nil
	})
	json("GET /v1/goldens/{ref}", func(r *http.Request) (any, error) { return f.golden(r.PathValue("ref")) })
	json("POST /v1/goldens/{ref}/promote", func(r *http.Request) (any, error) { return f.golden(r.PathValue("ref")) })
	json("POST /v1/goldens/{ref}/verify", func(r *http.Request) (any, error) { return f.golden(r.PathValue("ref")) })
	json("POST /v1/goldens/{ref}/access", func(r *http.Request) (any, error) { return f.golden(r.PathValue("ref")) })
	json("POST /v1/goldens/{ref}/rollback", func(r *http.Request) (any, error) { return f.golden(r.PathValue("ref")) })
	json("POST /v1/goldens/prune", func(r *http.Request) (any, error) {
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(filepath.Join(f.dir, "prune.json"), b, 0o600)
		}
		return f.goldens[:1], err
	})
	json("DELETE /v1/goldens/{ref}", func(r *http.Request) (any, error) {
		g, err := f.golden(r.PathValue("ref"))
		if err == nil && g.Name == "orders" {
			return nil, &api.Error{Code: api.CodeConflict, Message: "golden orders:1 has clones: c1", Hint: "remove them first"}
		}
		return nil, err
	})
	json("GET /v1/engines", func(*http.Request) (any, error) { return f.engines(), nil })
	json("GET /v1/engines/{name}", func(r *http.Request) (any, error) {
		for _, e := range f.engines() {
			if name := r.PathValue("name"); name == e.Name || name == "default" && e.Name == "postgres" {
				return e, nil
			}
		}
		return nil, &api.Error{Code: api.CodeNotFound, Message: "engine " + r.PathValue("name") + ": not found"}
	})
	json("POST /v1/engines", func(r *http.Request) (any, error) {
		var req api.EngineRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		at := time.Now()
		f.added = &api.Engine{Schema: 1, Name: "kv", Scripts: []string{".sh"}, Digest: "sha256:1", AddedAt: &at, Description: req.Description}
		return f.added, nil
	})
	json("DELETE /v1/engines/{name}", func(r *http.Request) (any, error) {
		if f.added == nil || r.PathValue("name") != f.added.Name {
			return nil, &api.Error{Code: api.CodeConflict, Message: "remove engine " + r.PathValue("name") + ": 1 goldens are of it"}
		}
		f.added = nil
		return nil, nil
	})
	json("GET /v1/pools", func(*http.Request) (any, error) {
		list := []api.Pool{}
		for _, g := range f.goldens {
			list = append(list, f.pool(g))
		}
		return list, nil
	})
	json("POST /v1/pools/{golden}", f.setPool)
	mux.HandleFunc("POST /v1/clones", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(api.HeaderQueue) != "" && f.busy(r) {
			w.Header().Set(api.HeaderQueue, "3 250ms")
			w.WriteHeader(http.StatusProcessing)
		}
		f.mu.Lock()
		v, err := f.create(r)
		f.changed.Broadcast()
		f.mu.Unlock()
		answer(w, v, err)
	})
	json("GET /v1/clones", func(r *http.Request) (any, error) {
		list := []api.Clone{}
		for _, c := range f.clones {
			if hasLabels(c, r.URL.Query()["label"]) {
				list = append(list, *c)
			}
		}
		slices.SortFunc(list, func(a, b api.Clone) int { return strings.Compare(a.ID, b.ID) })
		return list, nil
	})
	json("GET /v1/clones/{id}", func(r *http.Request) (any, error) {
		c, err := f.clone(r)
		c.Durability, c.ServerSettings = api.DurabilityOff, []api.ServerSetting{
			{Name: "fsync", Value: "off", From: "engine", Note: "durability is off: what is written is lost"},
			{Name: "work_mem", Value: "64MB", From: "golden"},
		}
		return c, err
	})
	json("DELETE /v1/clones/{id}", func(r *http.Request) (any, error) {
		c, err := f.clone(r)
		if err == nil {
			delete(f.clones, c.ID)
		}
		return nil, err
	})
	json("POST /v1/clones/{id}/extend", f.extend)
	json("POST /v1/clones/{id}/restart", func(r *http.Request) (any, error) { return f.clone(r) })
	json("GET /v1/clones/{id}/client", func(r *http.Request) (any, error) {
		_, err := f.clone(r)
		return api.ClientRequest{Args: append([]string{"echo", "in-clone"}, r.URL.Query()["arg"]...)}, err
	})
	mux.HandleFunc("GET /v1/clones/{id}/logs", f.logs)
	mux.HandleFunc("GET /v1/leases/{id}", f.hold)
	mux.HandleFunc("POST /v1/clones/{id}/exec", f.exec)
	f.netRoutes(mux)
	mux.HandleFunc("POST /v1/goldens", f.build)
	json("POST /v1/builds/{id}/exec", func(r *http.Request) (any, error) {
		var res api.HostResult
		if err := decode(r, &res); err != nil {
			return nil, err
		}
		f.answers[r.PathValue("id")] <- res
		return nil, nil
	})
	return mux
}

func (f *fakeDaemon) pool(g api.Golden) api.Pool {
	p := api.Pool{Schema: 1, Golden: g.Name, Version: g.Version, Auto: true, Hits: 7, Misses: 1}
	if size, ok := f.sizes[g.Name]; ok {
		p.Auto, p.Size, p.Wanted, p.Ready = false, &size, size, size
	}
	return p
}

// busy says that a clone of this golden has to queue.
func (f *fakeDaemon) busy(r *http.Request) bool {
	b, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(b))
	return bytes.Contains(b, []byte(`"busy"`)) || bytes.Contains(b, []byte(`"slow"`))
}

func (f *fakeDaemon) setPool(r *http.Request) (any, error) {
	var req api.PoolRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	g, err := f.golden(r.PathValue("golden"))
	if err != nil {
		return nil, err
	}
	delete(f.sizes, g.Name)
	if req.Size != nil {
		f.sizes[g.Name] = *req.Size
	}
	return f.pool(g), nil
}

func decode(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		return &api.Error{Code: api.CodeUsage, Message: err.Error()}
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		w.WriteHeader(http.StatusTeapot)
		_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: e})
	case v == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (f *fakeDaemon) golden(ref string) (api.Golden, error) {
	for _, g := range slices.Backward(f.goldens) {
		if refOf(g) == ref || g.Name == ref {
			return g, nil
		}
	}
	return api.Golden{}, &api.Error{Code: api.CodeNotFound, Message: "golden " + ref + ": not found", Hint: "ctrsnap golden ls"}
}

func (f *fakeDaemon) clone(r *http.Request) (api.Clone, error) {
	id := r.PathValue("id")
	for _, c := range f.clones {
		if c.ID == id || c.Name == id {
			return *c, nil
		}
	}
	return api.Clone{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no clone %q: not found", id)}
}

func (f *fakeDaemon) create(r *http.Request) (any, error) {
	var req api.CloneRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if req.Golden == "full" {
		return nil, &api.Error{Code: api.CodeCapacity, Message: "no memory for another clone", Retryable: true}
	}
	if req.Golden == "busy" {
		if req.WaitTimeout != 0 {
			return nil, &api.Error{Code: api.CodeTimeout, Message: "no turn within " + time.Duration(req.WaitTimeout).String(), Retryable: true}
		}
		req.Golden = "shop"
	}
	if req.Golden == "slow" {
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return nil, &api.Error{Code: api.CodeGeneral, Message: "gone"}
	}
	g, err := f.golden(req.Golden)
	if err != nil {
		return nil, err
	}
	if c := f.clones[req.Name]; c != nil && req.IfExists == api.IfExistsReuse {
		c.Created = false
		return api.CloneResponse{Schema: 1, Clones: []api.Clone{*c}}, nil
	}
	resp := api.CloneResponse{Schema: 1}
	if req.Lease == api.LeaseConnection {
		if resp.LeaseID = req.LeaseID; resp.LeaseID == "" {
			resp.LeaseID = "lease1"
		}
	}
	for range max(req.Count, 1) {
		c := f.newClone(g, req, resp.LeaseID)
		f.clones[c.ID] = c
		resp.Clones = append(resp.Clones, *c)
	}
	return resp, nil
}

func (f *fakeDaemon) newClone(g api.Golden, req api.CloneRequest, leaseID string) *api.Clone {
	f.next++
	c := &api.Clone{
		Schema: 1, ID: fmt.Sprintf("c%d", f.next), Name: req.Name, Golden: g.Name, Version: g.Version, Engine: g.Engine,
		State: api.StateRunning, Created: true, CreatedAt: time.Now(), Labels: req.Labels, Settings: req.Settings,
		Host: "10.0.0.1", Port: 5432, User: "app", Password: "secret", Database: g.Name, LeaseID: leaseID,
		Timings: api.Timings{api.StageTotal: 12.5}, DiskBytes: 123456789,
	}
	if req.Name != "" {
		c.ID = req.Name
	}
	if why := req.Labels["dead"]; why != "" {
		c.State, c.Reason = api.StateDead, why
	}
	c.Egress, c.Networks = req.Egress != nil && *req.Egress, req.Networks
	for i, a := range req.Attach {
		c.Attached = append(c.Attached, api.Attachment{
			Schema: 1, IfName: fmt.Sprintf("eth%d", i+1), Type: a.Type, Master: a.Master, IP: a.IP, Gateway: a.Gateway, MAC: a.MAC, VLAN: a.VLAN,
		})
	}
	if req.IP != "" {
		c.Host = req.IP
	}
	if req.OwnPassword {
		c.Password, c.OwnPassword = "of its own", true
	}
	if g.Name == "hostile" {
		c.Password = hostilePassword
	}
	if leaseID == "" {
		end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
		c.ExpiresAt = &end
	}
	c.URL = fmt.Sprintf("postgres://app:%s@10.0.0.1:5432/%s", urlPassword(c.Password), g.Name)
	c.URLs = map[string]string{"tcp": c.URL, "socket": "postgres://app@/" + g.Name + "?host=/run/" + c.ID}
	env := func(host string) map[string]string {
		return map[string]string{"PGHOST": host, "PGPORT": "5432", "PGUSER": "app", "PGPASSWORD": c.Password, "PGDATABASE": g.Name}
	}
	c.Env = map[string]map[string]string{"tcp": env("10.0.0.1"), "socket": env("/run/" + c.ID)}
	c.UnsetEnv, c.Client = []string{"PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"}, "psql"
	return c
}

func (f *fakeDaemon) extend(r *http.Request) (any, error) {
	var req api.ExtendRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	c, err := f.clone(r)
	if err != nil {
		return nil, err
	}
	end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(req.TTL))
	c.ExpiresAt, c.LeaseID = &end, ""
	f.clones[c.ID] = &c
	return c, nil
}

// events tells of one event, and to who follows of a second one once there is another clone.
func (f *fakeDaemon) events(w http.ResponseWriter, r *http.Request) {
	send := func(id uint64) {
		_ = json.NewEncoder(w).Encode(api.Event{Schema: 1, ID: id, Type: api.EventCloneDied, Clone: "c1", Golden: "shop:1", Reason: "exit code 1"})
		_ = http.NewResponseController(w).Flush()
	}
	if r.URL.Query().Get("since") == "" {
		send(1)
	}
	if r.URL.Query().Get("follow") == "" {
		return
	}
	f.mu.Lock()
	n := len(f.clones)
	f.followed = true
	f.changed.Broadcast()
	f.mu.Unlock()
	if f.wait(func() bool { return len(f.clones) > n }) {
		send(2)
	}
}

func (f *fakeDaemon) logs(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	_, err := f.clone(r)
	f.mu.Unlock()
	if err != nil {
		answer(w, nil, err)
		return
	}
	lines := []string{"one", "two", "three"}
	if id := r.PathValue("id"); id == "timed" || id == "pr-42" {
		lines = []string{"before", "2026-01-01 10:00:00.123 UTC [7] LOG:  old", "2099-01-01 10:00:00.123 UTC [7] LOG:  new", "\tgoes on"}
	}
	if r.URL.Query().Get("tail") == "1" {
		lines = lines[2:]
	}
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// hold keeps a lease until its connection ends, and then removes its clones.
func (f *fakeDaemon) hold(w http.ResponseWriter, r *http.Request) {
	id, dropped := r.PathValue("id"), make(chan struct{})
	f.mu.Lock()
	f.drop = append(f.drop, sync.OnceFunc(func() { close(dropped) }))
	f.mu.Unlock()
	_ = json.NewEncoder(w).Encode(api.Lease{Schema: 1, ID: id})
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-dropped:
		_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: &api.Error{Code: api.CodeNotFound, Message: "lease " + id + " has ended"}})
	}
	f.mu.Lock()
	for k, c := range f.clones {
		if c.LeaseID == id {
			delete(f.clones, k)
		}
	}
	f.changed.Broadcast()
	f.mu.Unlock()
}

func (f *fakeDaemon) dropLeases() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, drop := range f.drop {
		drop()
	}
}

// wait returns once ok holds of the daemon, or false after a deadline.
func (f *fakeDaemon) wait(ok func() bool) bool {
	late := false
	timer := time.AfterFunc(20*time.Second, func() {
		f.mu.Lock()
		late = true
		f.changed.Broadcast()
		f.mu.Unlock()
	})
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !ok() && !late {
		f.changed.Wait()
	}
	return ok()
}

// exec runs the command on the host: only the way to it is under test.
func (f *fakeDaemon) exec(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	c, err := f.clone(r)
	f.mu.Unlock()
	if c.State == api.StateDead {
		err = &api.Error{Code: api.CodeConflict, Message: "the server of clone " + c.ID + " has ended"}
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.ExecProtocol)
	_, p, err := api.ReadFrame(rw, nil)
	if err != nil {
		return
	}
	var req api.ExecRequest
	_ = json.Unmarshal(p, &req)
	cmd := exec.Command(req.Args[0], req.Args[1:]...)
	cmd.Env = append(req.Env, "PATH="+os.Getenv("PATH"), fmt.Sprintf("TERMINAL=%v", req.Terminal))
	var mu sync.Mutex
	cmd.Stdout, cmd.Stderr = frames{&mu, conn, api.StreamStdout}, frames{&mu, conn, api.StreamStderr}
	stdin, _ := cmd.StdinPipe()
	go func() {
		defer stdin.Close()
		for {
			s, p, err := api.ReadFrame(rw, nil)
			if err != nil || s == api.StreamStdinClose {
				return
			}
			if s == api.StreamStdin {
				_, _ = stdin.Write(p)
			}
		}
	}()
	if err := cmd.Start(); err != nil {
		b, _ := json.Marshal(api.Error{Code: api.CodeNotFound, Message: req.Args[0] + ": not found in the clone"})
		_ = api.WriteFrame(conn, api.StreamError, b)
		return
	}
	_ = cmd.Wait()
	mu.Lock()
	defer mu.Unlock()
	_ = api.WriteFrame(conn, api.StreamExit, api.AppendExit(nil, cmd.ProcessState.ExitCode()))
}

type frames struct {
	mu     *sync.Mutex
	w      io.Writer
	stream api.Stream
}

func (f frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(p), api.WriteFrame(f.w, f.stream, p)
}

// build keeps what it got below dir/build and has the caller run its commands.
func (f *fakeDaemon) build(w http.ResponseWriter, r *http.Request) {
	form, err := r.MultipartReader()
	if err != nil {
		answer(w, nil, &api.Error{Code: api.CodeUsage, Message: err.Error()})
		return
	}
	req, err := f.receive(form)
	_, _ = io.Copy(io.Discard, r.Body) // net/http sees that a client is gone once it has read all of the body
	if err != nil {
		answer(w, nil, &api.Error{Code: api.CodeUsage, Message: err.Error()})
		return
	}
	enc := json.NewEncoder(w)
	send := func(e api.BuildEvent) {
		_ = enc.Encode(e)
		_ = http.NewResponseController(w).Flush()
	}
	send(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
	f.mu.Lock()
	f.last = req
	for _, g := range f.goldens {
		if req.Key != "" && g.Key == req.Key && g.Name == req.Name {
			f.mu.Unlock()
			send(api.BuildEvent{Type: api.EventDone, Golden: &g, Existed: true})
			return
		}
	}
	answers := make(chan api.HostResult, 1)
	f.answers["b1"] = answers
	f.mu.Unlock()
	if req.CheckOnly {
		send(api.BuildEvent{Type: api.EventDone})
		return
	}
	send(api.BuildEvent{Type: api.EventStep, Step: "initialise database"})
	send(api.BuildEvent{Type: api.EventProgress, Done: 1, Total: 2})
	for _, c := range req.Exec {
		send(api.BuildEvent{Type: api.EventExec, Exec: c, Env: map[string]string{"DATABASE_URL": "postgres://under/construction", "PGHOST": "/build"}, Token: "for " + c})
		select {
		case res := <-answers:
			if res.Token != "for "+c {
				send(api.BuildEvent{Type: api.EventError, Error: &api.Error{Code: api.CodeNotAllowed, Message: "the answer to " + c + " has the token " + res.Token}})
				return
			}
			if res.ExitCode != 0 {
				send(api.BuildEvent{Type: api.EventError, Error: &api.Error{Code: api.CodeGeneral, Message: fmt.Sprintf("exec %s: exit code %d: %s", c, res.ExitCode, res.Output)}})
				return
			}
		case <-r.Context().Done():
			_ = os.WriteFile(filepath.Join(f.dir, "build-ended"), nil, 0o600)
			return
		}
	}
	send(api.BuildEvent{Type: api.EventDone, Golden: f.built(req)})
}

func (f *fakeDaemon) built(req api.BuildRequest) *api.Golden {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := api.Golden{Schema: 1, Name: req.Name, Version: 1, Engine: "postgres", Key: req.Key, CreatedAt: time.Now()}
	for _, old := range f.goldens {
		if old.Name == req.Name {
			g.Version = old.Version + 1
		}
	}
	f.goldens = append(f.goldens, g)
	return &g
}

// receive stores the parts as dir/build/N-KIND-NAME, and the spec as dir/spec.json.
func (f *fakeDaemon) receive(form *multipart.Reader) (req api.BuildRequest, err error) {
	dir := filepath.Join(f.dir, "build")
	for i := 0; ; i++ {
		p, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return req, nil
		}
		if err != nil {
			return req, err
		}
		b, err := io.ReadAll(p)
		if err != nil {
			return req, err
		}
		name := filepath.Join(f.dir, "spec.json")
		if p.FormName() == api.PartSpec {
			if err := json.Unmarshal(b, &req); err != nil {
				return req, err
			}
			_ = os.RemoveAll(dir)
			_ = os.Mkdir(dir, 0o700)
		} else {
			name = filepath.Join(dir, fmt.Sprintf("%d-%s-%s", i, p.FormName(), p.FileName()))
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return req, err
		}
	}
}

func hasLabels(c *api.Clone, labels []string) bool {
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		if c.Labels[k] != v {
			return false
		}
	}
	return true
}
