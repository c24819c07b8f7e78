package cni

import (
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// FindOrKept is Find, but where no file has the name any more it returns the
// network as it was when it was found last, which is kept in dir.
func (h Confs) FindOrKept(name, dir string) (Conf, error) {
	c, err := h.Find(name)
	if err != nil {
		for _, shared := range []bool{false, true} {
			if kept, keptErr := Read(keptPath(dir, name, shared), shared); errdefs.IsNotFound(err) && keptErr == nil {
				return kept, nil
			}
		}
		return c, err
	}
	if c.list == nil {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, err
	}
	list, err := c.whole()
	if err != nil {
		return c, err
	}
	return c, os.WriteFile(keptPath(dir, name, c.Shared), list.Bytes, 0o600)
}

func keptPath(dir, name string, shared bool) string {
	if shared {
		name += ".shared"
	}
	return filepath.Join(dir, name+extensions[0])
}
