package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// record says where a clone is published, ports chosen, and where it is.
type record struct {
	At []Address      `json:"at"`
	To netip.AddrPort `json:"to"`
}

// published lists where one connects to.
func (r record) published(ipv6 bool) (all []netip.AddrPort) {
	for _, a := range r.At {
		if a.IP.IsValid() {
			all = append(all, netip.AddrPortFrom(a.IP, a.Port))
			continue
		}
		all = append(all, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port))
		if ipv6 {
			all = append(all, netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port))
		}
	}
	return all
}

// recordDir holds the record of each id, in a file of its name.
type recordDir string

const suffix = ".json"

func (d recordDir) path(id string) string { return filepath.Join(string(d), id+suffix) }

// write makes a record, whole or not at all.
func (d recordDir) write(id string, r record) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	half := filepath.Join(string(d), "."+id)
	if err := os.WriteFile(half, doc, 0o600); err != nil {
		return err
	}
	return os.Rename(half, d.path(id))
}

func (d recordDir) remove(id string) error {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// readAll returns the records, by id. What an earlier process was writing when it died, it removes.
func (d recordDir) readAll() (map[string]record, error) {
	half, err := filepath.Glob(filepath.Join(string(d), ".*"))
	for _, path := range half {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(d.path("*"))
	if err != nil {
		return nil, err
	}
	all := map[string]record{}
	for _, f := range files {
		var r record
		doc, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(doc, &r)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w: %w", f, errdefs.ErrDataLoss, err)
		}
		all[strings.TrimSuffix(filepath.Base(f), suffix)] = r
	}
	return all, nil
}
