package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// full is a request whose build uses everything, and answers its commands.
func full(w *world) *request {
	r := shop(part("init", "../../etc/b.sql", "create table b"), part("init", "a b;.sql", "create table a"), part("mask", "m.sql", "update a"))
	r.Exec = []string{"make migrate"}
	r.FromURL = "postgres://u:secret@db:5432/shop?password=secret&sslmode=require"
	r.Key = "k1"
	var id string
	r.on = func(e api.BuildEvent) {
		switch e.Type {
		case api.EventID:
			id = e.BuildID
		case api.EventExec:
			if err := w.Answer(context.Background(), ada, id, api.HostResult{Output: "migrated", Token: e.Token}); err != nil {
				w.t.Error(err)
			}
		}
	}
	return r
}

func TestBuild(t *testing.T) {
	w := newWorld(t)
	var src runtime.Sources
	files := map[string]string{}
	w.engine = func(ctx context.Context, wb runtime.Workbench, s runtime.Sources) (runtime.Built, error) {
		src = s
		for _, f := range s.Init {
			data, err := os.ReadFile(filepath.Join(wb.SourceDir(), "init", f))
			if err != nil {
				return runtime.Built{}, err
			}
			files[f] = string(data)
		}
		return everything(ctx, wb, s)
	}
	r := full(w)
	got, existed, err := w.run(t.Context(), r)
	if err != nil || existed {
		t.Fatal(existed, err)
	}
	want := api.Golden{
		Schema: 1, Name: "shop", Version: 1, Current: true, Engine: "postgres", EngineVersion: "15.18", Key: "k1",
		Base: api.Base{Kind: "host", Ref: "postgres 15.18"}, Builder: "ada",
		Sources: []api.Source{
			{Kind: "url", Name: "postgres://u@db:5432/shop?sslmode=require"},
			{Kind: "exec", Name: "make migrate"},
			{Kind: "init", Name: "b.sql", Size: 14},
			{Kind: "init", Name: "a b;.sql", Size: 14},
			{Kind: "mask", Name: "m.sql", Size: 8},
		},
		Mode: "0644", Warnings: []string{"b.sql has no end"},
	}
	opts := cmpopts.IgnoreFields(api.Golden{}, "CreatedAt", "BuildSeconds", "Owner", "Group", "KeyParts", "UsedAt")
	if diff := cmp.Diff(want, got, opts, cmpopts.IgnoreFields(api.Source{}, "Digest")); diff != "" {
		t.Error(diff)
	}
	if got.BuildSeconds <= 0 || time.Since(got.CreatedAt) > time.Minute {
		t.Errorf("created %v in %v s", got.CreatedAt, got.BuildSeconds)
	}
	// printf 'update a' | sha256sum
	if d := got.Sources[4].Digest; d != "sha256:"+maskDigest {
		t.Errorf("digest %s", d)
	}
	if diff := cmp.Diff(map[string]string{"0001-b.sql": "create table b", "0002-a_b_.sql": "create table a"}, files); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"0003-m.sql"}, src.Mask); diff != "" {
		t.Error(diff)
	}
	if src.Golden != "shop" || src.URL != r.FromURL || src.Base.Snapshot != "host" {
		t.Errorf("sources %+v", src)
	}
	checkEvents(t, r)
	w.checkNothingLeft()
	log := readLog(t, w, r)
	for _, s := range []string{"hello", "server ready", "vacuumed", "migrated", `init/0001-b.sql is "b.sql"`} {
		if !strings.Contains(log, s) {
			t.Errorf("no %q in log:\n%s", s, log)
		}
	}
	if strings.Contains(log+fmt.Sprint(r.events), "secret") {
		t.Errorf("secret told:\n%s\n%v", log, r.events)
	}
}

const maskDigest = "8d0faa3cbc1f21957ea137536a1d902ebbd5fef40342aa179df9d5417a8746f1"

func checkEvents(t *testing.T, r *request) {
	t.Helper()
	if e := r.events[0]; e.Type != api.EventID || !kind.Build.Is(e.BuildID) {
		t.Errorf("first event %+v", e)
	}
	var got []string
	for _, e := range r.events {
		switch e.Type {
		case api.EventLog:
			got = append(got, "log "+e.Log)
		case api.EventWarning:
			got = append(got, "warning "+e.Warning)
		case api.EventStep:
			got = append(got, "step "+e.Step)
		case api.EventExec:
			got = append(got, "exec "+e.Exec+" "+e.Env["DATABASE_URL"])
		}
	}
	want := []string{
		"step take sources", "step copy postgres 15.18 of this host", "step lay out", "log hello", "step serve",
		"log server ready", "exec make migrate postgres://x", "warning b.sql has no end", "log vacuumed", "step commit",
	}
	// The server writes whenever it is ready.
	less := func(a, b string) bool { return a < b }
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(less)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(without(want, "log server ready"), without(got, "log server ready")); diff != "" {
		t.Error(diff)
	}
}

func without(list []string, s string) (rest []string) {
	for _, e := range list {
		if e != s {
			rest = append(rest, e)
		}
	}
	return rest
}

func readLog(t *testing.T, w *world, r *request) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.LogDir, r.events[0].BuildID+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// calls returns the calls that a whole build makes.
func TestBases(t *testing.T) {
	w := newWorld(t)
	w.goldens = []snapshot.Golden{{Name: "base", Version: 2, Description: snapshot.Description{Engine: "redis", Digest: "d"}, Current: true, Snapshot: "parent"}}
	for name, tc := range map[string]struct {
		req   func(*request)
		want  api.Base
		step  string
		error func(error) bool
	}{
		"image":                {req: func(r *request) { r.Image = "postgres:16" }, want: api.Base{Kind: "image", Ref: "postgres:16"}, step: "pull postgres:16"},
		"archive":              {req: func(r *request) { r.Archive = true; r.parts = append(r.parts, part("archive", "x/pg.tar", "image")) }, want: api.Base{Kind: "archive", Ref: "pg.tar"}},
		"parent":               {req: func(r *request) { r.Parent = "base"; r.parts = nil }, want: api.Base{Kind: "golden", Ref: "base:2", Digest: "d"}},
		"no such parent":       {req: func(r *request) { r.Parent = "none" }, error: errdefs.IsNotFound},
		"parent of other kind": {req: func(r *request) { r.Parent = "base"; r.Engine = "postgres" }, error: errdefs.IsInvalidArgument},
		"not an image":         {req: func(r *request) { r.Archive = true; r.parts = append(r.parts, part("archive", "x", "?")) }, error: errdefs.IsInvalidArgument},
		"archive missing":      {req: func(r *request) { r.Archive = true }, error: errdefs.IsInvalidArgument},
		"archive not wanted":   {req: func(r *request) { r.parts = append(r.parts, part("archive", "x", "image")) }, error: errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			r := shop()
			r.Force = true // they are of two engines
			tc.req(r)
			g, _, err := w.run(t.Context(), r)
			if tc.error != nil {
				if !tc.error(err) {
					t.Errorf("error %v", err)
				}
			} else if err != nil || g.Base != tc.want {
				t.Errorf("base %+v, error %v", g.Base, err)
			}
			if tc.step != "" && !strings.Contains(strings.Join(r.steps(), "\n"), tc.step) {
				t.Errorf("steps %q", r.steps())
			}
			w.checkNothingLeft()
		})
	}
}
