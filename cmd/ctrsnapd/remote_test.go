package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t}
	pair := a.sign("ca", time.Hour)
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign makes a certificate that is valid for so long, by the authority or, where there is none yet, of one.
func (a authority) sign(name string, valid time.Duration) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	do(a.t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	do(a.t, err)
	leaf, err := x509.ParseCertificate(der)
	do(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// write writes a certificate and its key as PEM.
func (a authority) write(dir, name string, c tls.Certificate) {
	a.t.Helper()
	key, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	do(a.t, err)
	do(a.t, os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600))
	do(a.t, os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}), 0o600))
}

// remoteCaller is a caller of another host.
type remoteCaller struct {
	t    *testing.T
	d    *daemon
	conf *tls.Config
}

// caller shows certificates, or none, to a daemon that the authority's is of.
func (a authority) caller(d *daemon, certs ...tls.Certificate) remoteCaller {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return remoteCaller{a.t, d, &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12}}
}

// address is where the daemon says that it lets remote callers in.
func (r remoteCaller) address() string {
	all := regexp.MustCompile(`msg="remote callers" address=(\S+)`).FindAllStringSubmatch(string(mustRead(r.t, r.d.log())), -1)
	return all[len(all)-1][1]
}

// send sends a request on a connection of its own.
func (r remoteCaller) send(method, path string, body any) (*http.Response, error) {
	r.t.Helper()
	b, err := json.Marshal(body)
	do(r.t, err)
	transport := &http.Transport{TLSClientConfig: r.conf, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(r.t.Context(), method, "https://"+r.address()+path, bytes.NewReader(b))
	do(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	return (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
}

// do sends a request and reads the answer, which is a status or no connection.
func (r remoteCaller) do(method, path string, body, answer any) (int, error) {
	r.t.Helper()
	resp, err := r.send(method, path, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var b []byte
	if b, err = io.ReadAll(resp.Body); err == nil && answer != nil {
		err = json.Unmarshal(b, answer)
	}
	return resp.StatusCode, err
}

// want sends a request that is to be answered so, and returns the error in it.
func (r remoteCaller) want(status int, method, path string, body, answer any) {
	r.t.Helper()
	var failed api.ErrorBody
	if answer == nil && status != http.StatusNoContent {
		answer = &failed
	}
	got, err := r.do(method, path, body, answer)
	if err != nil || got != status {
		r.t.Errorf("%s %s: status %d, want %d: %v %+v", method, path, got, status, err, failed.Error)
	}
}

// names lists the clones that he sees.
func (r remoteCaller) names() (names []string) {
	r.t.Helper()
	var list []api.Clone
	r.want(http.StatusOK, http.MethodGet, "/v1/clones", nil, &list)
	for _, c := range list {
		names = append(names, c.Owner+"/"+c.Name)
	}
	slices.Sort(names)
	return names
}

// readmeLine returns the line of the README that begins so.
func readmeLine(t *testing.T, begin string) string {
	t.Helper()
	for line := range strings.Lines(string(mustRead(t, "../../README.md"))) {
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	t.Fatalf("no line of the README begins with %s", begin)
	return ""
}

// TestRemote lets callers of other hosts in by certificates: each has clones and goldens of his own,
// none is root, and nobody comes in without a good one.
func TestRemote(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, stranger := newAuthority(t), newAuthority(t)
	ca.write(dir, "ca", tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: ca.key})
	ca.write(dir, "daemon", ca.sign("daemon", time.Hour))
	d := newShop(t, fmt.Sprintf("[api]\ntls_listen = '127.0.0.1:0'\ntls_cert = '%[1]s/daemon.pem'\ntls_key = '%[1]s/daemon.key'\n"+
		"tls_client_ca = '%[1]s/ca.pem'\ntls_admins = ['boss']\n[limits.user]\nclones = 2\n", dir))
	d.run("golden", "build", "hidden", "--parent", "shop", "--mode", "0600")
	d.run("clone", "shop", "--name", "local")

	old := ca.caller(d, ca.sign("ann", time.Hour))
	old.conf.MaxVersion = tls.VersionTLS12
	for name, r := range map[string]remoteCaller{
		"no certificate": ca.caller(d), "of another CA": ca.caller(d, stranger.sign("ann", time.Hour)),
		"expired": ca.caller(d, ca.sign("ann", -time.Minute)), "TLS 1.2": old,
		"no name": ca.caller(d, ca.sign("", time.Hour)), "two lines": ca.caller(d, ca.sign("ann\nroot", time.Hour)),
	} {
		if status, err := r.do(http.MethodGet, "/v1/version", nil, nil); err == nil {
			t.Errorf("%s: let in, status %d", name, status)
		}
	}

	ann, bob, root, boss := ca.caller(d, ca.sign("ann", time.Hour)), ca.caller(d, ca.sign("bob", time.Hour)), ca.caller(d, ca.sign("root", time.Hour)), ca.caller(d, ca.sign("boss", time.Hour))
	var pr, made api.CloneResponse
	ann.want(http.StatusOK, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Name: "pr"}, &pr)
	if got := query(t, pr.Clones[0].URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("a remote caller's clone has %s rows", got)
	}
	bob.want(http.StatusOK, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Name: "pr"}, nil)
	for _, r := range []remoteCaller{bob, root} {
		r.want(http.StatusNotFound, http.MethodGet, "/v1/clones/"+pr.Clones[0].ID, nil, nil)
		r.want(http.StatusNotFound, http.MethodDelete, "/v1/clones/"+pr.Clones[0].ID, nil, nil)
		r.want(http.StatusNotFound, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "hidden"}, nil)
		r.want(http.StatusForbidden, http.MethodDelete, "/v1/goldens/shop:1", nil, nil)
		r.want(http.StatusForbidden, http.MethodGet, "/metrics", nil, nil)
	}
	ann.want(http.StatusBadRequest, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Lease: api.LeasePID, LeaseHolder: "1"}, nil)
	ann.want(http.StatusBadRequest, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Lease: api.LeaseCgroup, LeaseHolder: "/"}, nil)
	ann.want(http.StatusTooManyRequests, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Count: 2}, nil)

	ca.write(dir, "ann", ann.conf.Certificates[0])
	curl := exec.Command("sh", "-c", strings.ReplaceAll(readmeLine(t, "curl --cacert"), "192.0.2.1:7423", ann.address()))
	curl.Dir = dir
	if out, err := curl.Output(); err != nil || json.Unmarshal(out, &made) != nil || made.Clones[0].Owner != "cert:ann" {
		t.Errorf("curl: %v: %s", err, out)
	}
	ann.want(http.StatusNoContent, http.MethodDelete, "/v1/clones/"+made.Clones[0].ID, nil, nil)

	var leased api.CloneResponse
	ann.want(http.StatusOK, http.MethodPost, "/v1/clones", api.CloneRequest{Golden: "shop", Lease: api.LeaseConnection}, &leased)
	held, err := ann.send(http.MethodGet, "/v1/leases/"+leased.LeaseID, nil)
	do(t, err)
	if _, err := held.Body.Read(make([]byte, 1)); err != nil {
		t.Errorf("a lease: %v", err)
	}
	ann.want(http.StatusOK, http.MethodGet, "/v1/clones/"+leased.Clones[0].ID, nil, nil)
	held.Body.Close()
	waitFor(t, "the clone of a lease to end with its connection", func() bool {
		status, err := ann.do(http.MethodGet, "/v1/clones/"+leased.Clones[0].ID, nil, nil)
		return err == nil && status == http.StatusNotFound
	})

	d.run("golden", "access", "hidden", "--owner", "cert:carol") // who has not come yet
	carol := ca.caller(d, ca.sign("carol", time.Hour))
	carol.want(http.StatusOK, http.MethodPost, "/v1/goldens/hidden/access", api.AccessRequest{Mode: "0640"}, nil)
	carol.want(http.StatusForbidden, http.MethodPost, "/v1/goldens/hidden/access", api.AccessRequest{Owner: "cert:ann"}, nil)
	ann.want(http.StatusNotFound, http.MethodGet, "/v1/goldens/hidden", nil, nil)
	wantError(t, d.try(nil, "golden", "access", "hidden", "--owner", "cert:a b"), 2, "common name")

	d.restart(syscall.SIGKILL)
	if got := d.run("golden", "access", "hidden"); got != "0640 cert:carol root" {
		t.Errorf("hidden is %q", got)
	}
	carol.want(http.StatusNoContent, http.MethodDelete, "/v1/goldens/hidden", nil, nil)
	for _, seen := range []struct {
		by    remoteCaller
		names string
	}{{ann, "cert:ann/pr"}, {bob, "cert:bob/pr"}, {root, ""}, {boss, "cert:ann/pr cert:bob/pr root/local"}} {
		if got := strings.Join(seen.by.names(), " "); got != seen.names {
			t.Errorf("seen are %q, not %q", got, seen.names)
		}
	}
	boss.want(http.StatusNoContent, http.MethodDelete, "/v1/clones/"+pr.Clones[0].ID, nil, nil)
	bob.want(http.StatusNoContent, http.MethodDelete, "/v1/clones/pr", nil, nil)
	if log := string(mustRead(t, filepath.Join(d.work, "root/audit.log"))); !strings.Contains(log, `"user":"cert:ann"`) || !strings.Contains(log, `"remote":"127.0.0.1:`) {
		t.Error("the audit log does not say who it was")
	}
}
