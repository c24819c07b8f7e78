package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

const maxParts = 9999 // four digits keep the order of their names

// spool is the directory of a build's sources. What lies there has names that
// we chose and is readable for every user of a container; only root gets to
// it on the host, since the directory above is closed.
type spool struct {
	*job
	root  *os.Root
	parts int
	bytes int64 // taken in so far
}

// spoolParts takes in all parts of the request.
func (j *job) spoolParts(ctx context.Context, next func() (api.Part, error)) error {
	root, err := j.openSpool()
	if err != nil {
		return fmt.Errorf("make spool: %w", err)
	}
	defer func() { _ = root.Close() }()
	s := &spool{job: j, root: root}
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			return s.check()
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if err := s.take(ctx, part); err != nil {
			return fmt.Errorf("take %s %q: %w", part.Kind, display(part.Name), err)
		}
	}
}

// count takes note of bytes that came in, and says when they are too many.
func (s *spool) count(n int) error {
	s.bytes += int64(n)
	s.out.report(s.bytes, 0)
	if s.MaxUpload > 0 && s.bytes > s.MaxUpload {
		return fmt.Errorf("more than %d MiB of files: %w", s.MaxUpload>>20, errdefs.ErrResourceExhausted)
	}
	return s.Room()
}

func (j *job) openSpool() (*os.Root, error) {
	if err := mkdir(j.SpoolDir, 0o700); err != nil {
		return nil, err
	}
	dir := j.spoolDir()
	j.undo.Add("remove spool", func(context.Context) error { return os.RemoveAll(dir) })
	if err := mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

func (j *job) spoolDir() string { return filepath.Join(j.SpoolDir, j.id) }

// mkdir makes dir, if need be, and gives it exactly mode.
func mkdir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

func (s *spool) take(ctx context.Context, part api.Part) error {
	if s.parts++; s.parts > maxParts {
		return invalid("too many files, at most %d", maxParts)
	}
	if part.Name == "" {
		return invalid("no file name")
	}
	if err := s.fail("spool " + part.Kind); err != nil {
		return err
	}
	r := &reader{ctx: ctx, r: part.Reader, count: s.count}
	if part.Kind == api.PartArchive {
		return s.archive(ctx, part.Name, r)
	}
	return s.takeSource(part, r)
}

// archive makes the base of an image archive while it comes in.
func (s *spool) archive(ctx context.Context, name string, r io.Reader) (err error) {
	if !s.req.Archive {
		return invalid("an archive that the request does not announce")
	}
	if s.base.Snapshot != "" {
		return invalid("more than one archive")
	}
	s.base, err = s.Bases.Import(ctx, r, display(name), s.out.report)
	return err
}

// file stores a file in dir and returns its name there.
func (s *spool) file(dir, original string, r io.Reader) (string, error) {
	if err := s.mkdir(dir); err != nil {
		return "", err
	}
	name := s.name(original)
	h := sha256.New()
	n, err := writeFile(s.root, path.Join(dir, name), 0o644, io.TeeReader(r, h))
	if err != nil {
		return "", err
	}
	s.record(dir, path.Join(dir, name), original, hex.EncodeToString(h.Sum(nil)), n)
	return name, nil
}

// tree unpacks a tar to dir.
func (s *spool) tree(kind, dir, original string, r io.Reader) error {
	if err := s.mkdir(kind); err != nil {
		return err
	}
	if err := s.mkdir(dir); err != nil {
		return err
	}
	root, err := s.root.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	digest, n, err := untar(root, r)
	if errdefs.IsInvalidArgument(err) {
		message := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrInvalidArgument.Error())
		return &runtime.SourceError{File: display(original), Message: message}
	}
	if err != nil {
		return err
	}
	s.record(kind, dir, original, digest, n)
	return nil
}

// record notes a source; the log tells which file of the caller became which.
func (s *spool) record(kind, name, original, digest string, size int64) {
	src := snapshot.Source{Kind: kind, Name: display(original), Digest: "sha256:" + digest, Size: size}
	s.sources = append(s.sources, src)
	s.out.note(fmt.Sprintf("%s is %q, %d bytes, %s\n", name, src.Name, size, src.Digest))
}

// check says whether the sources make sense now that all are there.
func (s *spool) check() error {
	if s.req.Archive && s.base.Snapshot == "" {
		return invalid("the announced archive is missing")
	}
	var flags []string
	for _, k := range kinds {
		if k.flag == "" {
			continue
		}
		if k.has(s.src) {
			return nil
		}
		flags = append(flags, k.flag)
	}
	if s.src.Parent != nil {
		return nil
	}
	return snapshot.WithHint(invalid("no sources"), "say what the golden is made from: "+strings.Join(flags, ", ")+" or --parent")
}

func (s *spool) mkdir(dir string) error {
	if err := s.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return s.root.Chmod(dir, 0o755)
}

// name makes a file name of one that a stranger chose: no path, no character
// that means something to a shell, and an ordinal in front that keeps the
// order and makes it unique.
func (s *spool) name(original string) string {
	safe := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r)) {
			return r
		}
		return '_'
	}, baseName(original))
	// The end is kept, for it says what the file is.
	name := fmt.Sprintf("%04d-%s", s.parts, safe[max(0, len(safe)-100):])
	s.names = append(s.names, name, display(original))
	return name
}

// display is a file name for people and the golden's record.
func display(original string) string {
	name := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '_'
	}, strings.ToValidUTF8(baseName(original), "_"))
	return strings.ToValidUTF8(name[:min(len(name), 200)], "")
}

func baseName(name string) string { return path.Base(strings.ReplaceAll(name, `\`, "/")) }

// writeFile makes a file that does not exist yet.
func writeFile(root *os.Root, name string, mode os.FileMode, r io.Reader) (n int64, err error) {
	f, err := foreign.Create(root, name, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if n, err = io.Copy(f, r); err != nil {
		return n, err
	}
	return n, f.Chmod(mode)
}

// reader ends with ctx and counts.
type reader struct {
	ctx   context.Context
	r     io.Reader
	count func(n int) error
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if cerr := r.count(n); cerr != nil {
		return n, cerr
	}
	return n, err
}
