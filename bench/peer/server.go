package peer

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Server is a server of its own for each database, on a copy of the golden's
// data directory.
type Server struct {
	name  string
	o     Original
	login Endpoint
	place Place
	// after runs when the server answers, to complete the data.
	after func(ctx context.Context, b *Bare) (Endpoint, error)
}

var _ Peer = (*Server)(nil)

// Place is where servers may be put.
type Place struct {
	Data    string // directory on the golden's filesystem
	Sockets string // directory with a short path
	made    int
}

// next returns two directories that nobody has used.
func (p *Place) next(name string) (data, sockets string) {
	p.made++
	dir := fmt.Sprintf("peer-%s%d", name, p.made)
	return filepath.Join(p.Data, dir), filepath.Join(p.Sockets, dir)
}

// NewReflink starts each server on a reflinked copy: the limit of what can be had
// without sharing a server.
func NewReflink(o Original, login Endpoint, place Place) *Server {
	return &Server{name: "bare", o: o, login: login, place: place}
}

// NewCopy copies all bytes with cp(1) for each server.
func NewCopy(o Original, login Endpoint, place Place) *Server {
	o.Fill = func(dst string) error {
		out, err := exec.Command("cp", "-a", "--reflink=never", o.Golden, dst).CombinedOutput()
		if err != nil {
			return fmt.Errorf("copy data directory: %w: %s", err, out)
		}
		return nil
	}
	return &Server{name: "cp", o: o, login: login, place: place}
}

// Name implements [Peer].
func (s *Server) Name() string { return s.name }

// Get implements [Peer].
func (s *Server) Get(ctx context.Context) (Endpoint, Drop, error) {
	data, sockets := s.place.next(s.name)
	b, err := s.o.Prepare(data, sockets, s.login)
	if err != nil {
		return Endpoint{}, nil, err
	}
	drop := func(context.Context) error { return b.Close() }
	if err := b.Start(ctx); err != nil {
		return Endpoint{}, nil, errors.Join(err, b.Close())
	}
	at := b.Endpoint
	if s.after != nil {
		if at, err = s.after(ctx, b); err != nil {
			return at, nil, errors.Join(err, b.Close())
		}
	}
	return at, drop, nil
}

// Close implements [Peer].
func (s *Server) Close(context.Context) error { return nil }
