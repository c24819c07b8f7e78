package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
)

// certificateLife is longer than any golden's.
const certificateLife = 30 * 365 * 24 * time.Hour

// writeCertificate gives a golden a certificate of its own, signed by itself, and its key: for ssl=on. It proves nothing but
// that somebody encrypts. One that is there already stays.
func (b *build) writeCertificate(r *rootfs.Root) error {
	if r.IsFile(certFile) && r.IsFile(keyFile) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "ctrsnap clone"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(certificateLife), BasicConstraintsValid: true, IsCA: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	pemOf := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	if err := writeFile(r, certFile, pemOf("CERTIFICATE", cert), 0o644); err != nil {
		return err
	}
	// A server takes no key that others may read.
	if err := writeFile(r, keyFile, pemOf("PRIVATE KEY", private), 0o600); err != nil {
		return err
	}
	dir, err := r.Dir(path.Dir(keyFile))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Chown(path.Base(keyFile), int(b.st.UID), int(b.st.GID))
}
