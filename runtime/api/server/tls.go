package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
)

// TLS is where callers of other hosts are let in, each by a certificate of his own. The files
// are PEM, and read anew for each connection, so that they can be replaced at any time.
type TLS struct {
	Address   string // as in "192.0.2.1:7423"
	Cert, Key string // the daemon's own
	ClientCA  string // who signs the certificates of callers
}

// ListenTLS listens for [Server.Serve]. Only TLS 1.3 is spoken, only with who shows a certificate
// for client authentication that the CA has signed, is valid now and has a common
// name to know him by; 1024 connections at a time. The caller must close the listener.
func ListenTLS(ctx context.Context, o TLS) (net.Listener, error) {
	if _, err := o.config(); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Address, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Address, err)
	}
	return tls.NewListener(boundRemote(l, maxRemote), &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return o.config() },
	}), nil
}

func (o TLS) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s and key: %w", o.Cert, err)
	}
	pem, err := os.ReadFile(o.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("load CA of clients: %w", err)
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load CA of clients: no certificate in %s: %w", o.ClientCA, errdefs.ErrInvalidArgument)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{pair},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              ca,
		NextProtos:             []string{"http/1.1"}, // of which exec takes the connection over
		SessionTicketsDisabled: true,                 // whoever comes again is verified again
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := commonName(s)
			return err
		},
	}, nil
}

// commonName returns whose certificate the other end has shown, while it is valid.
func commonName(s tls.ConnectionState) (string, error) {
	if len(s.VerifiedChains) == 0 {
		return "", fmt.Errorf("no certificate was verified: %w", errdefs.ErrPermissionDenied)
	}
	leaf := s.VerifiedChains[0][0]
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) { // it was valid when he connected
		return "", fmt.Errorf("the certificate has expired: %w", errdefs.ErrPermissionDenied)
	}
	name := leaf.Subject.CommonName
	if err := access.CheckCommonName(name); err != nil {
		return "", fmt.Errorf("the certificate: %v: %w", err, errdefs.ErrPermissionDenied) //nolint:errorlint // it is not the request that is wrong
	}
	return name, nil
}

// remote says who is at the other end of a TLS connection: see [access.CertUsers].
func (s *Server) remote(conn *tls.Conn) (c access.Caller, err error) {
	defer func() { c.Remote = conn.RemoteAddr().String() }()
	name, err := commonName(conn.ConnectionState())
	if err != nil {
		return c, err
	}
	if s.certUsers == nil {
		return c, fmt.Errorf("callers of other hosts are not known: %w", errdefs.ErrPermissionDenied)
	}
	c, err = s.certUsers.Caller(name)
	if slices.Contains(s.certAdmins, name) {
		c = c.AsAdmin()
	}
	return c, err
}
