package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckDataDir(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "PG_VERSION"), "15\n", 0o600)
	if err := checkDataDir(postgres, dir); err != nil {
		t.Error(err)
	}
	// This process is alive, but no server.
	writeFile(t, filepath.Join(dir, postgres.PIDFile), fmt.Sprintf("%d\n%s\n", os.Getpid(), dir), 0o600)
	if err := checkDataDir(postgres, dir); err != nil {
		t.Error(err)
	}
	server := startAs(t, "postgres")
	writeFile(t, filepath.Join(dir, postgres.PIDFile), fmt.Sprintf("%d\n%s\n", server, dir), 0o600)
	if err := checkDataDir(postgres, dir); err == nil || !strings.Contains(err.Error(), "a server runs on") {
		t.Errorf("a running server: %v", err)
	}
	os.Remove(filepath.Join(dir, postgres.PIDFile))
}

// startAs starts a program of the given name that runs until the test ends.
func startAs(t *testing.T, name string) int {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(b), 0o700)
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// Links of a data directory are followed, as its server does: a tablespace comes along. What is not copied anyway, and what
// leads nowhere, stops nothing.
func TestLinksOfDataDir(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "PG_VERSION"), "15", 0o600)
	writeFile(t, filepath.Join(out, "space/PG_15/1/2"), "rows", 0o600)
	writeFile(t, filepath.Join(out, "conf"), "text", 0o600)
	for name, to := range map[string]string{"log": "/var/log/x", "server.key": "/nowhere", "pg_tblspc/1": out + "/space", "a.conf": out + "/conf", "pg_wal": out + "/space"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if dead := deadLinks(postgres, dir); len(dead) != 1 || filepath.Base(dead[0]) != "server.key" {
		t.Error(dead)
	}
	got := map[string]string{}
	r := tarDir(dir, postgres)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		b, _ := io.ReadAll(tr)
		got[h.Name] = string(h.Typeflag) + string(b)
	}
	for name, want := range map[string]string{"log/": "5", "server.key": "", "pg_tblspc/1/": "5", "pg_tblspc/1/PG_15/1/2": "0rows", "a.conf": "0text", "pg_wal/PG_15/1/2": "0rows"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if err := os.Symlink(dir, filepath.Join(dir, "self")); err != nil {
		t.Fatal(err)
	}
	loop := tarDir(dir, postgres)
	defer loop.Close()
	if _, err := io.Copy(io.Discard, loop); err == nil {
		t.Error("a link to the directory itself passes")
	}
}
