package main_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// entrypoint keeps the conventions of the official images of PostgreSQL, in
// the order of https://github.com/docker-library/docs/blob/master/postgres/README.md.
const entrypoint = `#!/bin/bash
set -e
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" && chown -R postgres "$PGDATA" && chmod 700 "$PGDATA"
	exec setpriv --reuid postgres --regid postgres --clear-groups "$BASH_SOURCE" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username="${POSTGRES_USER:-postgres}" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-host=scram-sha-256 $POSTGRES_INITDB_ARGS
	pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k /tmp" -w start
	if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
		psql -h /tmp -U "${POSTGRES_USER:-postgres}" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
	fi
	for f in /docker-entrypoint-initdb.d/*.sql; do
		psql -v ON_ERROR_STOP=1 -h /tmp -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-postgres}" -f "$f"
	done
	pg_ctl -D "$PGDATA" -m fast -w stop
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec "$@"
`

// postgresImage makes an image in the way of the official ones, out of the root
// filesystem of a clone.
func postgresImage(t *testing.T, d *daemon) v1.Image {
	t.Helper()
	d.file("schema.sql", schema)
	d.run("golden", "build", "rootfs", fromHost(), "--init", "schema.sql")
	pid := cloneJSON(t, d, "rootfs").PID
	data := dataDir(t, pid)
	root := fmt.Sprintf("/proc/%d/root", pid)
	bin, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", serverOf(t, pid))) // a path of the clone, not of the host
	if err != nil {
		t.Fatal(err)
	}
	var owners strings.Builder // as the host sees those of a clone, and as they are in the image
	for id := range 1000 {
		fmt.Fprintf(&owners, "+%d +%d\n", 0x70000000+id, id)
	}
	ids := d.file("owners", owners.String())
	files := filepath.Join(d.work, "rootfs.tar")
	out, err := exec.Command("tar", "-C", root, "--one-file-system", "--owner-map="+ids, "--group-map="+ids, "--exclude=."+strings.TrimPrefix(data, root)+"/*",
		"--exclude=./proc", "--exclude=./sys", "--exclude=./dev", "--exclude=./ctrsnap", "-cf", files, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	rootfs, err := tarball.LayerFromFile(files)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, rootfs, layer(t, map[string]string{
		"usr/local/bin/docker-entrypoint.sh":    entrypoint,
		"docker-entrypoint-initdb.d/10-own.sql": "CREATE TABLE of_the_image (i int); INSERT INTO of_the_image VALUES (42);",
	}), hostPrograms(t, "setpriv", "id", "chown", "chmod", "mkdir"))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.Config(img, v1.Config{
		Env:        []string{"PATH=/usr/local/bin:" + filepath.Dir(bin) + ":/usr/bin:/bin", "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8"},
		Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"postgres"}, StopSignal: "SIGINT",
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// layer makes a layer of executable files.
func layer(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// hostPrograms is a layer of programs of this host with the libraries that a
// host base lacks.
func hostPrograms(t *testing.T, names ...string) v1.Layer {
	t.Helper()
	files := map[string]string{}
	add := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files["usr/"+strings.TrimPrefix(strings.TrimPrefix(path, "/"), "usr/")] = string(b)
	}
	for _, n := range names {
		path, err := exec.LookPath(n)
		if err != nil {
			t.Fatal(err)
		}
		add(path)
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/lib/") || strings.HasPrefix(word, "/usr/lib/") {
				add(word)
			}
		}
	}
	return layer(t, files)
}

// TestImages builds goldens on an image, pulled and from an archive.
func TestImages(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[containerd]\nuserns = 'on'\n")
	img := postgresImage(t, d)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/test/postgres:15")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(d.work, "image.tar")
	if err := tarball.WriteToFile(archive, ref, img); err != nil {
		t.Fatal(err)
	}
	for golden, base := range map[string][]string{
		"pulled":   {"--image", ref.Name()},
		"archived": {"--image-archive", archive},
	} {
		t.Run(golden, func(t *testing.T) {
			d.run(append([]string{"golden", "build", golden, "--init", "schema.sql"}, base...)...)
			url := d.run("clone", golden)
			if got := query(t, url, "SELECT (SELECT i FROM of_the_image) || ' ' || count(*) FROM users"); got != "42 1000" {
				t.Errorf("got %q", got)
			}
		})
	}
	wantError(t, d.try(nil, "golden", "build", "none", "--image", ref.Context().Tag("16").Name(), "--init", "schema.sql"), 3, "postgres:16")
	wantNoGolden(t, d, "none")
	content := archiveOf(t, &tar.Header{Name: "sys", Typeflag: tar.TypeSymlink, Linkname: "/tmp"})
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	do(t, err)
	linked, err := mutate.AppendLayers(img, l)
	do(t, err)
	do(t, tarball.WriteToFile(archive, ref, linked))
	wantError(t, d.try(nil, "golden", "build", "none", "--image-archive", archive, "--init", "schema.sql"), 1, "/sys is a link in the root filesystem")
	wantNoGolden(t, d, "none")
}
