package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// check says what a start would find. It changes nothing. The error is that something keeps a daemon from starting, or
// from making clones.
func check(ctx context.Context, cfg config.Config, w io.Writer) error {
	d := &daemon{cfg: cfg, log: slog.Default()}
	report, err := host.New(host.Options{Checks: d.preconditions()}).Doctor(ctx, access.Daemon)
	if err != nil {
		return err
	}
	bad := 0
	for _, c := range report.Checks {
		fmt.Fprintf(w, "%-8s %s: %s\n", c.Status, c.Name, c.Detail)
		if c.Status == "ok" {
			continue
		}
		if c.Status == "error" {
			bad++
		}
		for _, line := range []struct{ name, text string }{{"why", c.Why}, {"fix", c.Fix}} {
			if line.text != "" {
				fmt.Fprintf(w, "         %s: %s\n", line.name, line.text)
			}
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(report.Checks))
	}
	return nil
}

// preconditions are looked at in the order in which a start needs them.
func (d *daemon) preconditions() []host.Check {
	c := d.cfg
	programs := map[string]string{"ctrsnap-proxy": "it carries connections to published ports"}
	checks := []host.Check{
		host.CheckRoot,
		host.CheckSocket(func(socket string) error {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				_ = conn.Close()
			}
			return err
		}, c.API.Socket),
		host.CheckGroup(c.API.Group, c.API.Socket),
		host.CheckDirs(c.Root, c.State, filepath.Dir(c.API.Socket)),
		host.CheckKernel("/proc", c.Containerd.UserNS == runner.UsersOn),
		host.CheckCgroups,
		host.One(runner.CheckRunc(d.runc())),
	}
	if c.Containerd.Address == "" {
		checks = append(checks, host.CheckStorageAhead(storage.Options{
			Dir: filepath.Join(c.Root, "storage"), Image: filepath.Join(c.Root, "storage.xfs"), Size: int64(c.Storage.Size), AllowPlain: true,
		}))
		programs["containerd-shim-runc-v2"] = "it runs the containers that runc starts"
		if c.Containerd.Runtime != "runc" {
			programs["containerd-shim-ctrsnap-v1"], programs["ctrsnap-shim"] = "it starts clones", "it runs clones"
		}
	} else {
		checks = append(checks, host.One(d.checkAddress))
	}
	return append(checks, host.CheckPrograms(d.program, programs), host.One(d.checkConf), host.One(d.checkTLS))
}

// finding is a check of which an error is all that can be said.
func finding(name, detail, fix string, err error) api.Check {
	if err != nil {
		return api.Check{Name: name, Status: "error", Detail: err.Error(), Fix: fix}
	}
	return api.Check{Name: name, Status: "ok", Detail: detail}
}

func (d *daemon) checkAddress(context.Context) api.Check {
	a := d.cfg.Containerd.Address
	conn, err := net.Dial("unix", a)
	if err == nil {
		_ = conn.Close()
	}
	return finding("containerd", "of the host at "+a, "start that containerd, or leave containerd.address away: ctrsnapd has its own", err)
}

// checkConf looks at the network of the configuration, if it is none of ours.
func (d *daemon) checkConf(context.Context) api.Check {
	if !d.hasConf() {
		return finding("network", "a bridge of its own", "", nil)
	}
	conf, err := d.conf()
	return finding("network", "CNI network "+conf.Name, "see network.conflist and network.use", err)
}

func (d *daemon) checkTLS(context.Context) api.Check {
	a := d.cfg.API
	if a.TLSListen == "" {
		return finding("tls", "no callers of other hosts", "", nil)
	}
	_, err := tls.LoadX509KeyPair(a.TLSCert, a.TLSKey)
	_, caErr := os.ReadFile(a.TLSClientCA)
	return finding("tls", "callers of other hosts at "+a.TLSListen, "see api.tls_cert, api.tls_key and api.tls_client_ca", errors.Join(err, caErr))
}
