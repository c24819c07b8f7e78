// Package config is the daemon's configuration: a TOML file in which every key
// is optional, has a good default, and an unknown key is an error.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// DefaultPath is read if it exists and no other file is named.
const DefaultPath = "/etc/ctrsnap/ctrsnapd.toml"

// Config is the whole configuration.
type Config struct {
	// Root keeps what survives a reboot: storage, goldens, logs.
	Root string `toml:"root" comment:"what survives a reboot: storage, goldens, logs"`
	// State keeps what does not: sockets, network namespaces.
	State string `toml:"state" comment:"what does not: sockets, network namespaces"`

	API        API        `toml:"api"`
	Containerd Containerd `toml:"containerd"`
	Storage    Storage    `toml:"storage"`
	Network    Network    `toml:"network"`
	Clone      Clone      `toml:"clone"`
	Limits     Limits     `toml:"limits"`
	Pool       Pool       `toml:"pool"`
	Build      Build      `toml:"build"`
	Metrics    Metrics    `toml:"metrics"`
	Log        Log        `toml:"log"`
}

// API is where and for whom the daemon listens.
type API struct {
	Socket string `toml:"socket" comment:"unix socket; \"\" is STATE/ctrsnap.sock"`
	Group  string `toml:"group" comment:"members of this group may use the socket (0660)"`

	AdminGroup string `toml:"admin_group" comment:"members of this group may do with all clones and goldens what their owners may, as root"`

	TLSListen   string   `toml:"tls_listen" comment:"let callers of other hosts in here, by TLS 1.3 with certificates on both sides, as in \"192.0.2.1:7423\"; \"\" lets none in"`
	TLSCert     string   `toml:"tls_cert" comment:"PEM file of the daemon's certificate; all three are read anew for each connection"`
	TLSKey      string   `toml:"tls_key" comment:"PEM file of its key"`
	TLSClientCA string   `toml:"tls_client_ca" comment:"PEM file of the CA of callers' certificates, whose common names are who they are"`
	TLSAdmins   []string `toml:"tls_admins" comment:"common names of administrators"`
}

// validate says what is missing, or would let nobody in.
func (a API) validate() error {
	if a.TLSListen == "" {
		if a.TLSCert+a.TLSKey+a.TLSClientCA != "" || len(a.TLSAdmins) > 0 {
			return errors.New("configuration: api.tls_listen: missing beside the other keys of TLS")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(a.TLSListen); err != nil {
		return fmt.Errorf("configuration: api.tls_listen: %q is not an address like 192.0.2.1:7423", a.TLSListen)
	}
	for _, file := range []struct{ key, path string }{{"tls_cert", a.TLSCert}, {"tls_key", a.TLSKey}, {"tls_client_ca", a.TLSClientCA}} {
		if !filepath.IsAbs(file.path) {
			return fmt.Errorf("configuration: api.%s: %q is not an absolute path", file.key, file.path)
		}
	}
	return nil
}

// Containerd is which containerd is driven, and how.
type Containerd struct {
	Address string   `toml:"address" comment:"socket of a containerd that runs already; \"\" runs one in process"`
	Runc    string   `toml:"runc" comment:"runc binary; \"\" looks beside ctrsnapd, in ../libexec/ctrsnap, then on PATH"`
	BinDirs []string `toml:"bin_dirs" comment:"where the shim and runc are looked for first"`
	UserNS  string   `toml:"userns" comment:"auto has root and all other users of clones and builds be nobody on this host where the kernel can; on refuses to start where it cannot; off. Where they are not, clones and builds are for administrators only"`
	IDs     uint32   `toml:"ids" comment:"the first of the 65536 users and groups of this host that those of clones are; nobody else is to have them"`
	Runtime string   `toml:"runtime" comment:"ctrsnap starts clones in shims that serve many, and leaves to runc what they do not do; runc leaves all to it"`
	Cgroup  string   `toml:"cgroup" comment:"parent cgroup of all clones"`
}

// Storage is the filesystem that holds the snapshots.
type Storage struct {
	Size   Size     `toml:"size" comment:"of the loop image that is made where ROOT is not on XFS (reflink) or Btrfs, as in \"200GiB\"; 0 chooses from the free space; larger than before grows it online"`
	Verify Duration `toml:"verify" comment:"how often each golden is read whole, slowly, and compared with what was built; after a loss of power it is at once; 0s is never"`

	Reserve Size `toml:"reserve" comment:"what is to stay free of it: below, no clones and goldens are made, and below half of it the clone that holds most is stopped; 0 is a twentieth, at most 10GiB"`
}

// Network is how clones are reached.
type Network struct {
	Bridge     string   `toml:"bridge" comment:"name of the bridge; \"\" takes the first free of ctrsnap0, ctrsnap1 …"`
	Subnet     string   `toml:"subnet" comment:"IPv4 subnet of the clones; \"\" chooses one that overlaps no route of this host"`
	Ahead      int      `toml:"ahead" comment:"how many network namespaces wait for clones"`
	BinDirs    []string `toml:"bin_dirs" comment:"where CNI plugins are looked for"`
	DNS        bool     `toml:"dns" comment:"answer at the bridge's addresses for the names of clones: NAME.ctrsnap.internal"`
	DNSForward []string `toml:"dns_forward" comment:"name servers that this host, its containers and clones with egress are answered from for all other names, as in [\"192.0.2.53\"]; none refuses them"`
	Conflist   string   `toml:"conflist" comment:"file with a CNI conflist to be used in place of the bridge"`
	Use        string   `toml:"use" comment:"name of a CNI network to be used in place of the bridge; flannel needs no file"`

	ConfDirs   []string `toml:"conf_dirs" comment:"where networks are found by name"`
	AdminGroup string   `toml:"admin_group" comment:"members of this group may attach clones to interfaces of this host, as root may: see ctrsnap net attach --help"`

	FlannelFile    string   `toml:"flannel_file" comment:"what flanneld writes, for the network flannel where no file has it"`
	SharedConfDirs []string `toml:"shared_conf_dirs" comment:"the same for networks that others on this host use, too"`
}

// Clone limits the life of clones.
type Clone struct {
	TTL          Duration `toml:"ttl" comment:"lifetime unless asked otherwise"`
	MaxTTL       Duration `toml:"max_ttl" comment:"the longest that can be asked for"`
	StartTimeout Duration `toml:"start_timeout" comment:"a server that has not answered by then has failed"`
	LeaseGrace   Duration `toml:"lease_grace" comment:"how long the clones of a connection wait for it to come back once a restarted daemon serves again"`
	OwnPassword  bool     `toml:"own_password" comment:"clones get a password of their own, in place of the golden's"`
	Egress       bool     `toml:"egress" comment:"clones reach what is beyond this host unless asked otherwise"`
	Limits       Bounds   `toml:"limits" comment:"of a clone, unless asked otherwise; a disk of 0 is a quarter of the storage"`
	Max          Bounds   `toml:"max" comment:"what can be asked for, but by administrators; 0 is anything"`
}

// Pool is how many clones are made ahead of those who ask for them.
type Pool struct {
	Size     int  `toml:"size" comment:"of each golden, unless 'ctrsnap pool set' says otherwise"`
	Auto     bool `toml:"auto" comment:"more where the recent demand is worth it"`
	Max      int  `toml:"max" comment:"of one golden at most, by demand; 0 is four times the cores"`
	Parallel int  `toml:"parallel" comment:"how many are made at once; 0 is half the cores"`
	Memory   Size `toml:"memory" comment:"what all of them may use, as in \"4GiB\"; 0 is a quarter of this host's"`
}

// Build limits golden builds.
type Build struct {
	Parallel     int      `toml:"parallel" comment:"how many golden builds run at once, and as many more of users who have none of these; others wait"`
	Timeout      Duration `toml:"timeout" comment:"how long a build may run; 0 is for ever"`
	MaxUpload    Size     `toml:"max_upload" comment:"what the files of one build may be together, unpacked; 0 is until storage.reserve"`
	HostNetwork  bool     `toml:"host_network" comment:"have --from-url dump in the host's network, with the host's own programs: it reaches the host's loopback, clones and metadata services, for everybody who may build. Else it reaches what clones with egress do"`
	TrustedGroup string   `toml:"trusted_group" comment:"members of this group find by --key what other members have built with it as their group; \"\": everybody finds only what is their own or root's"`
	Mode         Mode     `toml:"mode" comment:"who may do what with a golden whose builder does not say: as a file's mode, r to see and clone, w to build, promote and remove"`

	Keep      int      `toml:"keep" comment:"remove versions of goldens that are not among as many newest of their name, as 'ctrsnap golden prune' does; 0 keeps all, unless unused_for says otherwise"`
	UnusedFor Duration `toml:"unused_for" comment:"remove versions that nobody has used for so long, as in \"720h\"; with keep, only those beyond it, too; 0s is never"`
	MakeRoom  bool     `toml:"make_room" comment:"before the storage is full and work is refused, remove goldens built with --key that nobody uses: those of the user whose goldens hold most first, and of these the one that was unused longest"`
}

// Metrics are for Prometheus.
type Metrics struct {
	Listen string `toml:"listen" comment:"serve them here, without asking who it is, as in \"127.0.0.1:9273\"; \"\" only on api.socket, to administrators"`
}

// Log is how the daemon logs to stderr.
type Log struct {
	Level  slog.Level `toml:"level" comment:"debug, info, warn, error"`
	Format string     `toml:"format" comment:"text or json"`
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Root:       "/var/lib/ctrsnap",
		State:      "/run/ctrsnap",
		API:        API{Group: "ctrsnap", AdminGroup: "ctrsnap-admin", TLSAdmins: []string{}},
		Containerd: Containerd{Runtime: "ctrsnap", UserNS: "auto", IDs: 0x70000000, Cgroup: "/ctrsnap", BinDirs: []string{}},
		Storage:    Storage{Verify: Duration(7 * 24 * time.Hour)},
		Network:    Network{Ahead: 16, DNS: true, DNSForward: []string{}, BinDirs: []string{}, FlannelFile: "/run/flannel/subnet.env", ConfDirs: []string{"/etc/ctrsnap/net.d"}, SharedConfDirs: []string{"/etc/cni/net.d"}},
		Clone:      Clone{TTL: Duration(time.Hour), MaxTTL: Duration(24 * time.Hour), StartTimeout: Duration(time.Minute), LeaseGrace: Duration(30 * time.Second), Limits: Bounds{Pids: 4096}},
		Pool:       Pool{Auto: true},
		Build:      Build{Parallel: 2, Timeout: Duration(6 * time.Hour), Mode: 0o644},
		Log:        Log{Format: "text"},
	}
}

// maxCount bounds how many of anything are made: more is a mistake.
const maxCount = 10_000

// Load reads the file at path over the defaults. With path "" it reads
// [DefaultPath] if that exists.
func Load(path string) (Config, error) {
	c := Default()
	optional := path == ""
	if optional {
		path = DefaultPath
	}
	b, err := os.ReadFile(path)
	switch {
	case optional && errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, fmt.Errorf("read configuration: %w", err)
	default:
		if err := parse(b, &c); err != nil {
			return c, fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	return c, c.validate()
}

// parse decodes b into c and names the first key that c does not know.
func parse(b []byte, c *Config) error {
	given := map[string]any{}
	if toml.Unmarshal(b, &given) == nil { // else the error below says where
		if err := checkDurations(given, reflect.TypeFor[Config](), ""); err != nil {
			return err
		}
	}
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(c)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		e := unknown.Errors[0]
		line, _ := e.Position()
		return fmt.Errorf("line %d: unknown key %s", line, strings.Join(e.Key(), "."))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		return fmt.Errorf("line %d: %s: %w", line, strings.Join(bad.Key(), "."), err)
	}
	return err
}

func (c *Config) validate() error {
	if c.API.Socket == "" {
		c.API.Socket = filepath.Join(c.State, "ctrsnap.sock")
	}
	for key, path := range map[string]string{"root": c.Root, "state": c.State, "api.socket": c.API.Socket} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("configuration: %s: %q is not an absolute path", key, path)
		}
	}
	if err := c.API.validate(); err != nil {
		return err
	}
	for key, err := range map[string]error{
		"clone.limits": c.Clone.Limits.validate(), "clone.max": c.Clone.Max.validate(),
		"limits.user": c.Limits.User.validate(), "limits.all": c.Limits.All.validate(),
	} {
		if err != nil {
			return fmt.Errorf("configuration: %s: %w", key, err)
		}
	}
	if c.Network.Subnet != "" {
		if p, err := netip.ParsePrefix(c.Network.Subnet); err != nil || !p.Addr().Is4() {
			return fmt.Errorf("configuration: network.subnet: %q is not an IPv4 subnet like 10.213.0.0/16", c.Network.Subnet)
		}
	}
	if _, err := c.Network.Forward(); err != nil {
		return fmt.Errorf("configuration: network.dns_forward: %w", err)
	}
	switch {
	case c.Log.Format != "text" && c.Log.Format != "json":
		return fmt.Errorf("configuration: log.format: %q is neither text nor json", c.Log.Format)
	case c.Clone.TTL <= 0 || c.Clone.TTL > c.Clone.MaxTTL:
		return errors.New("configuration: clone.ttl: must be positive and at most clone.max_ttl")
	case c.Clone.StartTimeout <= 0:
		return errors.New("configuration: clone.start_timeout: must be positive")
	case c.Clone.LeaseGrace <= 0:
		return errors.New("configuration: clone.lease_grace: must be positive")
	case c.Containerd.Runtime != "ctrsnap" && c.Containerd.Runtime != "runc":
		return fmt.Errorf("configuration: containerd.runtime: %q is neither ctrsnap nor runc", c.Containerd.Runtime)
	case c.Containerd.UserNS != "auto" && c.Containerd.UserNS != "on" && c.Containerd.UserNS != "off":
		return fmt.Errorf("configuration: containerd.userns: %q is none of auto, on, off", c.Containerd.UserNS)
	case c.Containerd.IDs <= 1<<16 || c.Containerd.IDs > 1<<32-2<<16:
		return errors.New("configuration: containerd.ids: must be above 65536 and leave room for as many")
	case c.Network.Ahead < 0:
		return errors.New("configuration: network.ahead: must not be negative")
	case c.Network.Conflist+c.Network.Use != "" && c.Network.Bridge+c.Network.Subnet != "":
		return errors.New("configuration: network.conflist and network.use replace the bridge: leave network.bridge and network.subnet away")
	case c.Network.Conflist != "" && c.Network.Use != "":
		return errors.New("configuration: network.use: is by name what network.conflist is by file: leave one away")
	case min(c.Pool.Size, c.Pool.Max, c.Pool.Parallel) < 0:
		return errors.New("configuration: pool: size, max and parallel must not be negative")
	case max(c.Pool.Size, c.Pool.Max, c.Pool.Parallel, c.Network.Ahead) > maxCount:
		return fmt.Errorf("configuration: pool.size, pool.max, pool.parallel and network.ahead are at most %d", maxCount)
	case c.Build.Keep < 0:
		return errors.New("configuration: build.keep: must not be negative")
	case c.Build.Parallel < 1 || c.Build.Parallel > maxCount:
		return fmt.Errorf("configuration: build.parallel: must be 1 to %d", maxCount)
	}
	return nil
}

// Forward returns the servers of DNSForward.
func (n Network) Forward() (servers []netip.AddrPort, _ error) {
	for _, s := range n.DNSForward {
		if a, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
			continue
		}
		at, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not an address like 192.0.2.53 or 192.0.2.53:5353", s)
		}
		servers = append(servers, at)
	}
	return servers, nil
}

// Print returns the configuration as a commented TOML file.
func (c Config) Print() ([]byte, error) {
	b, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return b, nil
}
