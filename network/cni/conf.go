package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/flannel"
)

// Conf is the configuration of a CNI network.
type Conf struct {
	Name string
	Path string // of the file; "" is built in
	// Shared says that others on this host use the network, too. It is taken as
	// it is, and what their plugins keep is not touched.
	Shared bool

	list    *libcni.NetworkConfigList // nil: made of the lease each time
	leases  []*flannel.Lease          // of plugins of type flannel
	dataDir string                    // where plugins keep what is not shared
}

// Dir is a directory of configurations.
type Dir struct {
	Path   string
	Shared bool // with others on this host, as /etc/cni/net.d
}

// Confs are the configurations that a host has.
type Confs struct {
	Dirs        []Dir  // the first with a name counts
	FlannelFile string // of flanneld, for the network that is built in; "" is [flannel.DefaultSubnetFile]
}

// extensions of files with a network, and with a plugin alone.
var extensions = []string{".conflist", ".conf", ".json"}

// Read reads the configuration in a file: InvalidArgument if it is none.
func Read(path string, shared bool) (Conf, error) {
	list, err := readList(path)
	if err == nil && len(list.Plugins) == 0 {
		err = errors.New("it has no plugins")
	}
	if err == nil {
		_, _, _, err = version.ParseVersion(list.CNIVersion)
	}
	if err != nil {
		return Conf{}, badConf(path, err)
	}
	c := Conf{Name: list.Name, Path: path, Shared: shared, list: list}
	for _, p := range list.Plugins {
		if p.Network.Type != flannel.Type {
			continue
		}
		f, err := flannel.ParseConf(p.Bytes)
		if err != nil {
			return Conf{}, badConf(path, err)
		}
		c.leases = append(c.leases, &flannel.Lease{Path: f.SubnetFile})
	}
	return c, nil
}

func readList(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == extensions[0] {
		return libcni.NetworkConfFromFile(path)
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if isList(doc) {
		return libcni.NetworkConfFromBytes(doc)
	}
	one, err := libcni.NetworkPluginConfFromBytes(doc)
	if err != nil {
		return nil, err
	}
	plugin := object{}
	if err := json.Unmarshal(doc, &plugin); err != nil {
		return nil, err
	}
	return rebuild(&libcni.NetworkConfigList{Name: one.Network.Name, CNIVersion: one.Network.CNIVersion}, []object{plugin})
}

// isList tells a network from a plugin alone, whatever the file is called.
func isList(doc []byte) bool {
	var list struct{ Plugins json.RawMessage }
	return json.Unmarshal(doc, &list) != nil || list.Plugins != nil
}

func badConf(path string, err error) error {
	return network.WithHint(
		fmt.Errorf("read CNI configuration %s: %w: %w", path, err, errdefs.ErrInvalidArgument),
		"a conflist is a JSON object with cniVersion, name and a list of plugins, each with a type")
}

// List returns the networks of the directories, and why other files have none.
func (h Confs) List() ([]Conf, error) {
	var confs []Conf
	var errs []error
	for _, dir := range h.Dirs {
		files, err := libcni.ConfFiles(dir.Path, extensions)
		if err != nil {
			errs = append(errs, fmt.Errorf("list CNI configurations: %w", err))
		}
		for _, f := range files { // sorted
			c, err := Read(f, dir.Shared)
			if err != nil {
				errs = append(errs, err)
			} else if !slices.ContainsFunc(confs, func(have Conf) bool { return have.Name == c.Name }) {
				confs = append(confs, c)
			}
		}
	}
	return confs, errors.Join(errs...)
}

// Find returns the network of a name. Where no file has the name flannel, that
// is the host's network of that kind, or one that is built in.
func (h Confs) Find(name string) (Conf, error) {
	confs, err := h.List()
	names := make([]string, 0, len(confs)+1)
	for _, c := range confs {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	if name == flannel.Type {
		for _, c := range confs {
			if len(c.leases) > 0 {
				return c, nil
			}
		}
		return Flannel(cmp.Or(h.FlannelFile, flannel.DefaultSubnetFile)), nil
	}
	where := make([]string, 0, len(h.Dirs))
	for _, d := range h.Dirs {
		where = append(where, d.Path)
	}
	return Conf{}, network.WithHint(
		errors.Join(fmt.Errorf("find network %q: no CNI configuration has that name: %w", name, errdefs.ErrNotFound), err),
		fmt.Sprintf("in %s there is: %s", strings.Join(where, ", "), strings.Join(append(names, flannel.Type), ", ")))
}

// Flannel is the network of a host with flanneld that needs no file.
func Flannel(subnetFile string) Conf {
	return Conf{Name: flannel.Type, leases: []*flannel.Lease{{Path: subnetFile}}}
}

// Flannel says whether the network is one of flannel's.
func (c Conf) Flannel() bool { return len(c.leases) > 0 }

// Parse reads a configuration that a program has written. Its plugins keep
// nothing that would need a place.
func Parse(doc []byte) (Conf, error) {
	list, err := libcni.NetworkConfFromBytes(doc)
	if err != nil {
		return Conf{}, badConf("", err)
	}
	return Conf{Name: list.Name, list: list}, nil
}
