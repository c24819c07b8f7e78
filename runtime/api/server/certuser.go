package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	// certUID is the number of the first user who is known by a certificate, near the end of what
	// the kernel has: no host gives such to its users, nor their containers.
	certUID = 0xF0000000
	// maxCertUsers bounds how many there are.
	maxCertUsers = 1 << 20
	// certPrefix is before their names, so that none is taken for a user of the host.
	certPrefix = "cert:"
)

// CertUsers gives each user who is known by a certificate a number, as the kernel gives those
// of the host. It is kept in a file, for clones and goldens have it for their owner's:
// a name a line, never one less. It is safe for concurrent use.
type CertUsers struct {
	path string

	mu    sync.Mutex
	names []string // the first has number certUID, and so on
}

// OpenCertUsers reads the file at path, if there is one.
func OpenCertUsers(path string) (*CertUsers, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read users of certificates: %w", err)
	}
	u := &CertUsers{path: path, names: strings.Fields(string(b))}
	for _, name := range u.names {
		if !commonNames.MatchString(name) {
			return nil, fmt.Errorf("read users of certificates: %s: invalid name %.64q: %w", path, name, errdefs.ErrDataLoss)
		}
	}
	return u, nil
}

// Name returns what the user of a number is called; false if the number is no user's of ours.
func (u *CertUsers) Name(uid int) (string, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := uid - certUID; i >= 0 && i < len(u.names) {
		return certPrefix + u.names[i], true
	}
	return "", false
}

// ID returns the number of a user whom [CertUsers.Name] calls so, also of one who has never come;
// false if the name is none of such users.
func (u *CertUsers) ID(name string) (uid int, ok bool, err error) {
	common, ok := strings.CutPrefix(name, certPrefix)
	if !ok {
		return 0, false, nil
	}
	if !commonNames.MatchString(common) {
		return 0, true, fmt.Errorf("common name %.64q: want letters, digits and . _ @ -: %w", common, errdefs.ErrInvalidArgument)
	}
	uid, err = u.number(common)
	return uid, true, err
}

// number returns a user's number. One who comes for the first time is on disk before.
func (u *CertUsers) number(name string) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.names, name); i >= 0 {
		return certUID + i, nil
	}
	if len(u.names) >= maxCertUsers {
		return 0, fmt.Errorf("record user %s: %d are all there may be: %w", name, maxCertUsers, errdefs.ErrResourceExhausted)
	}
	names := append(slices.Clone(u.names), name)
	if err := u.save(names); err != nil {
		return 0, fmt.Errorf("record user %s: %w", name, err)
	}
	u.names = names
	return certUID + len(names) - 1, nil
}

// save replaces the file by one that survives a loss of power.
func (u *CertUsers) save(names []string) error {
	f, err := os.OpenFile(u.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(names, "\n") + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(u.path+".new", u.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(u.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
