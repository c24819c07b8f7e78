package main

import (
	"fmt"
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
	writeFile(t, filepath.Join(dir, "pg_tblspc", "16384"), "", 0o600)
	if err := checkDataDir(postgres, dir); err == nil || !strings.Contains(err.Error(), "pg_tblspc") {
		t.Errorf("tablespaces: %v", err)
	}
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
