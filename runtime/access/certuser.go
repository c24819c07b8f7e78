package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	// certUID is the number of the first user who is known by a certificate, near the end of what
	// the kernel has: no host gives such numbers to its users or their containers.
	certUID = 0xF0000000
	// maxCertUsers bounds how many there are.
	maxCertUsers = 1 << 20
	// certPrefix begins their names, so that none is taken for a user of the host.
	certPrefix = "cert:"
)

// commonNames are what callers may be called: the name goes into logs, and into a file a line.
var commonNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// CheckCommonName refuses a certificate's name that nobody may have: InvalidArgument.
func CheckCommonName(name string) error {
	if !commonNames.MatchString(name) {
		return fmt.Errorf("common name %.64q: want letters, digits and . _ @ -: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// IsCertUID says whether a number is, or may become, that of a certificate's user. No user of the
// host has such a number.
func IsCertUID(uid int) bool { return uid >= certUID }

// CertUsers gives each user who is known by a certificate a number, as the host gives its users
// theirs. The numbers are kept in a file, since clones and goldens record them as their owners':
// a name per line, and no line is ever removed. It is safe for concurrent use.
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
		if CheckCommonName(name) != nil {
			return nil, fmt.Errorf("read users of certificates: %s: invalid name %.64q: %w", path, name, errdefs.ErrDataLoss)
		}
	}
	return u, nil
}

// Caller returns the user whom a certificate names. They are in no group. A user who comes for
// the first time is recorded on disk before.
func (u *CertUsers) Caller(name string) (Caller, error) {
	if err := CheckCommonName(name); err != nil {
		return Caller{}, err
	}
	uid, err := u.number(name)
	if err != nil {
		return Caller{}, err
	}
	return User(certPrefix+name, uid), nil
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

// ID returns the number of the user whom [CertUsers.Name] calls so, even if they have never come;
// false if the name is not of the form of such users' names.
func (u *CertUsers) ID(name string) (uid int, ok bool, err error) {
	common, ok := strings.CutPrefix(name, certPrefix)
	if !ok {
		return 0, false, nil
	}
	if err := CheckCommonName(common); err != nil {
		return 0, true, err
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
