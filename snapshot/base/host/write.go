package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Write fills dir, which is empty, with the root filesystem and returns a
// digest of names, modes, owners and content. Where dir's filesystem can share
// blocks with a source's (reflink), it does. Files are not synced. A file
// that changed since Find is Unavailable: find again. On an error dir is left
// as far as it came.
func (p *Plan) Write(ctx context.Context, dir string) (digest.Digest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", p.Name, err)
	}
	defer func() { _ = root.Close() }() // it was open for reading
	if err := root.Chmod(".", 0o755); err != nil {
		return "", fmt.Errorf("write %s: %w", p.Name, err)
	}
	w := &writer{root: root, reader: p.reader, all: sha256.New(), buf: make([]byte, 1<<20)}
	defer w.leave()
	for _, e := range p.entries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := w.write(e); err != nil {
			return "", fmt.Errorf("write %s: %w", e.target, err)
		}
	}
	return digest.NewDigest(digest.SHA256, w.all), nil
}

// writer writes entries below root: a symlink among them cannot lead out.
type writer struct {
	root   *os.Root
	reader snapshot.HostReader
	dir    *os.Root // directory of the last entry, or nil
	path   string   // its path
	all    hash.Hash
	buf    []byte
}

func (w *writer) write(e entry) error {
	if err := w.enter(path.Dir(e.target)); err != nil {
		return err
	}
	name := path.Base(e.target)
	var content string
	var err error
	switch {
	case e.mode.IsDir():
		err = w.dir.Mkdir(name, 0o700)
	case e.mode&fs.ModeSymlink != 0:
		err = w.dir.Symlink(e.link, name)
	default:
		content, err = w.file(name, e)
	}
	if err != nil {
		return err
	}
	if err := w.attributes(name, e); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.all, "%q %o %d %d %q %s\n", e.target, e.mode, e.uid, e.gid, e.link, content)
	return err
}

// enter opens dir. Entries are sorted, so that few directories are opened often.
func (w *writer) enter(dir string) error {
	if w.dir != nil && w.path == dir {
		return nil
	}
	w.leave()
	opened, err := w.root.OpenRoot("." + dir)
	if err != nil {
		return err
	}
	w.dir, w.path = opened, dir
	return nil
}

func (w *writer) leave() {
	if w.dir != nil {
		_ = w.dir.Close() // it was open for reading
		w.dir = nil
	}
}

// attributes sets owner and mode, whatever the umask is.
func (w *writer) attributes(name string, e entry) error {
	if e.uid != 0 || e.gid != 0 {
		if err := w.dir.Lchown(name, e.uid, e.gid); err != nil {
			return err
		}
	}
	if e.mode&fs.ModeSymlink != 0 {
		return nil
	}
	return w.dir.Chmod(name, e.mode&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid))
}

// file writes a regular file and returns the digest of its content.
func (w *writer) file(name string, e entry) (_ string, err error) {
	dst, err := w.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if e.source == "" {
		_, err := dst.Write(e.data)
		return digest.FromBytes(e.data).String(), err
	}
	var src *os.File
	err = foreign.As(w.reader.UID, w.reader.Groups, func() (err error) {
		src, err = openSame(e)
		return err
	})
	if err != nil {
		return "", err
	}
	defer src.Close()
	h := sha256.New()
	to := io.MultiWriter(h, dst)
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		to = h // the content is there, only its digest is not
	}
	// The wrapper hides ReadFrom and WriteTo, which would ignore the buffer.
	n, err := io.CopyBuffer(to, struct{ io.Reader }{src}, w.buf)
	if err == nil && n != e.id.size {
		err = changed(e)
	}
	return digest.NewDigest(digest.SHA256, h).String(), err
}

// openSame opens the source of e if it still is the file that was found.
func openSame(e entry) (*os.File, error) {
	f, err := foreign.OpenSource(e.source)
	if errors.Is(err, unix.ELOOP) {
		return nil, changed(e)
	}
	if err != nil {
		return nil, class(err)
	}
	info, err := f.Stat()
	if err == nil && identify(info) != e.id {
		err = changed(e)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func changed(e entry) error {
	return fmt.Errorf("%s changed while %s was made of it: %w", e.source, path.Base(e.target), errdefs.ErrUnavailable)
}
