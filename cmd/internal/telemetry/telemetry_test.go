package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	m.Read(Source{
		LastMeasured: func() []api.Clone {
			return []api.Clone{{ID: "c1", Golden: "shop", Owner: "ann", State: api.StateRunning, DiskBytes: 10}, {ID: "c2", Golden: "shop", Owner: "ann", State: api.StateRunning, DiskBytes: 5}}
		},
		Pools: func(context.Context) ([]api.Pool, error) {
			return []api.Pool{{Golden: "shop", Version: 1, Hits: 2}, {Golden: "shop", Version: 2, Hits: 3, Ready: 4}}, nil
		},
		Goldens: func(context.Context) ([]api.Golden, error) { return nil, errors.New("not now") },
		Load:    func() manager.Load { return manager.Load{Waiting: 7} },
		Space:   func() (patrol.Space, error) { return patrol.Space{Size: 100, Free: 50, Reserve: 5}, nil },
		Room:    func() error { return nil },
		Events:  event.New(), Recover: manager.Report{Adopted: 3},
	})
	m.Observe(t.Context(), manager.Made{Golden: snapshot.Ref{Name: "shop", Version: 2}, Timings: api.Timings{api.StageReady: 20}})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`ctrsnap_clone_live{golden="shop",owner="ann",state="running"} 2`, `ctrsnap_clone_disk_bytes{golden="shop",owner="ann"} 15`,
		`ctrsnap_pool_hits_total{golden="shop"} 5`, "ctrsnap_queue_waiting 7", "ctrsnap_storage_free_bytes 50", "ctrsnap_storage_low 0",
		`ctrsnap_reconcile_total{result="adopted"} 3`, `ctrsnap_clone_stage_seconds_count{stage="ready",way="cold"} 1`,
		`ctrsnap_clone_made_total{golden="shop",result="ok",way="cold"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if text := w.Body.String(); strings.Contains(text, `"c1"`) {
		t.Error("an id is a label")
	}
}

func TestTraces(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tr := newTraces(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)))
	began := time.Now()
	tr.Observe(t.Context(), manager.Made{Golden: snapshot.Ref{Name: "shop"}, Began: began, Timings: api.Timings{
		api.StagePrepare: 3, api.StageNetwork: 1, api.StageReady: 20, api.StageTotal: 23,
	}})
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string][2]time.Duration{}
	for _, s := range spans.Ended() {
		got[s.Name()] = [2]time.Duration{s.StartTime().Sub(began), s.EndTime().Sub(began)}
	}
	ms := time.Millisecond
	for name, want := range map[string][2]time.Duration{"clone": {0, 23 * ms}, "prepare": {0, 3 * ms}, "network": {0, ms}, "ready": {3 * ms, 23 * ms}} {
		if got[name] != want {
			t.Errorf("%s from %v to %v, want %v", name, got[name][0], got[name][1], want)
		}
	}
	var none *Traces
	none.Observe(t.Context(), manager.Made{})
}

// TestOpen counts clones, keeps who did what, and serves figures at an address until it is told to end.
func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	tel, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	tel.Observe(t.Context(), manager.Made{Golden: snapshot.Ref{Name: "shop"}, Timings: api.Timings{api.StageClaim: 1}})
	tel.Audit().Info("clone", "caller", "ann")
	var log strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := tel.Serve(ctx, "127.0.0.1:0", slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(strings.TrimSpace(log.String()), "address=")
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, text := get("/metrics"); code != 200 || !strings.Contains(text, `ctrsnap_clone_made_total{golden="shop",result="ok",way="pool"} 1`) {
		t.Errorf("metrics: %d %s", code, text)
	}
	if code, _ := get("/v1/clones"); code != 404 {
		t.Errorf("more than metrics is served there: %d", code)
	}
	if err := tel.Serve(ctx, address, slog.Default()); err == nil {
		t.Error("served at an address that is taken")
	}
	cancel()
	if err := tel.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "audit.log")); err != nil || !strings.Contains(string(b), `"caller":"ann"}`) {
		t.Errorf("audit log %q, %v", b, err)
	}
	var none *Telemetry
	if err := none.Close(t.Context()); err != nil {
		t.Errorf("close nothing: %v", err)
	}
	if tel, err := Open(t.Context(), filepath.Join(dir, "audit.log")); err == nil {
		t.Errorf("opened below a file: %v", tel)
	}
}

func TestAuditRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := OpenAudit(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 39) + "\n"
	for range 5 {
		if _, err := a.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for file, lines := range map[string]int{path: 1, path + ".1": 2} {
		if b, err := os.ReadFile(file); err != nil || strings.Count(string(b), "\n") != lines {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

// TestDashboard: what the dashboard shows are metrics that there are.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../../ctrsnapd/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) {
		t.Fatal("it is no JSON")
	}
	source, err := os.ReadFile("collector.go")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`ctrsnap_([a-z_]+)`).FindAllStringSubmatch(string(b), -1) {
		base := strings.TrimSuffix(name[1], "_bucket")
		if !strings.Contains(string(source), `"`+base+`"`) && !strings.Contains(string(own), `"ctrsnap_`+base+`"`) {
			t.Errorf("no metric %s", name[0])
		}
	}
}
