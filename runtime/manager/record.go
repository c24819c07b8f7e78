package manager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
)

// recordForm is the form of the records that this version writes. Form 1, which names none, had the fields of this one,
// and more that nobody reads.
const recordForm = 2

// record is what is kept of a clone with its container, so that a restarted daemon knows all of it, also one of another
// version: fields are added, never changed or given another meaning. It is not what users are told: that is
// [record.wire].
type record struct {
	Form int `json:"form,omitempty"`

	ID       string            `json:"id"`
	Name     string            `json:"name,omitempty"`
	Golden   string            `json:"golden"`
	Version  int               `json:"version"` // of the golden
	Engine   string            `json:"engine"`
	Owner    string            `json:"owner,omitempty"` // user name
	OwnerUID int               `json:"owner_uid"`
	Labels   map[string]string `json:"labels,omitempty"`
	Settings map[string]string `json:"settings,omitempty"` // that it was asked for with

	// Ready says that the clone may have been handed out. One that is not belongs to nobody.
	Ready bool `json:"ready"`
	// Member says that it waits in the pool: nobody has heard of it.
	Member bool `json:"member,omitempty"`
	// Process is the digest of what a member runs: a daemon that would start it otherwise does not hand it out.
	Process string `json:"process,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Reason  string `json:"reason,omitempty"` // why it is dead
	// Isolation is how its container is kept apart from the host; records of earlier releases do not say.
	Isolation api.Isolation `json:"isolation,omitempty"`

	CreatedAt time.Time             `json:"created_at"`
	ExpiresAt *time.Time            `json:"expires_at,omitempty"` // nil: it lives by its lease
	IdleTTL   api.Duration          `json:"idle_ttl,omitempty"`
	Protected bool                  `json:"protected,omitempty"`
	LeaseID   string                `json:"lease_id,omitempty"`
	Holder    string                `json:"holder,omitempty"` // what holds the lease, where that is no connection
	Limits    limits                `json:"limits,omitzero"`
	Timings   map[api.Stage]float64 `json:"timings"` // in milliseconds

	connection
	OwnPassword bool         `json:"own_password,omitempty"`
	Addr        netip.Addr   `json:"addr"`            // of its network; zero without one
	Addrs       []netip.Addr `json:"addrs,omitempty"` // all of the first interface
	Egress      bool         `json:"egress,omitempty"`
	Networks    []string     `json:"networks,omitempty"` // that it asked for by name
	// Peers is of the clones that reach each other; "" is each by itself.
	Peers     string       `json:"peers,omitempty"`
	Published []string     `json:"published,omitempty"` // HOST:PORT
	Attached  []attachment `json:"attached,omitempty"`
	// Given are interfaces that it has given up for its successor: they are its own again if that is never handed out.
	Given []attachment `json:"given,omitempty"`
}

// limits has the fields of [api.Limits].
type limits struct {
	MemoryBytes int64   `json:"memory_bytes,omitempty"`
	CPUs        float64 `json:"cpus,omitempty"`
	Pids        int64   `json:"pids,omitempty"`
	DiskBytes   int64   `json:"disk_bytes,omitempty"`
	Connections int     `json:"connections,omitempty"`
}

// connection has the fields of [runtime.Connection].
type connection struct {
	URLs     map[string]string            `json:"urls"`
	Host     string                       `json:"host,omitempty"`
	Port     int                          `json:"port,omitempty"`
	Socket   string                       `json:"socket,omitempty"`
	User     string                       `json:"user"`
	Password string                       `json:"password,omitempty"`
	Database string                       `json:"database"`
	Env      map[string]map[string]string `json:"env,omitempty"`
	Unset    []string                     `json:"unset_env,omitempty"`
	Client   string                       `json:"client,omitempty"`
}

// attachment has the fields of [network.AttachRequest]. Form 1 wrote some of them as Go names them, which differ in
// case only.
type attachment struct {
	Type    string `json:"type"`
	Master  string `json:"master,omitempty"`
	IP      string `json:"ip,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	MAC     string `json:"mac,omitempty"`
	VLAN    int    `json:"vlan,omitempty"`
	IfName  string `json:"ifname"`
}

// encode returns the form that parseRecord reads.
func (r record) encode() ([]byte, error) {
	r.Form = recordForm
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record of clone %s: %w", r.ID, err)
	}
	return b, nil
}

// parseRecord reads a record as any version up to this one has written it. FailedPrecondition is one of a later
// version, which may say what this one does not know; DataLoss is none.
func parseRecord(b []byte) (r record, err error) {
	var of struct {
		Form int `json:"form"`
	}
	if err = json.Unmarshal(b, &of); err == nil && of.Form > recordForm {
		return r, fmt.Errorf("its record was written by a later version (form %d, this one reads %d): %w", of.Form, recordForm, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read its record: %w: %w", err, errdefs.ErrDataLoss)
	}
	return r, nil
}

// newRecord returns the record of a clone that is about to be made.
func newRecord(id string, want *plan, name string, at time.Time) record {
	g := want.golden
	r := record{ID: id, Golden: g.Name, Version: g.Version, Engine: g.Engine, Member: want.member}
	if want.member {
		r.Process = fingerprint(want.process)
	}
	r.personalise(want, name, at)
	return r
}

// live has the clone end after ttl, if there is one. The time keeps the reading of the monotonic clock, by which it is
// compared: a jump of the host's clock ends no clones, and keeps none. The next daemon reads it from the record,
// without.
func (r *record) live(ttl time.Duration) {
	if ttl > 0 {
		at := time.Now().Add(ttl)
		r.ExpiresAt = &at
	}
}

// life says how long a clone lives.
func (r *record) life() lease.Life {
	l := lease.Life{Lease: r.LeaseID, Since: r.CreatedAt, Protected: r.Protected}
	if r.ExpiresAt != nil {
		l.Until = *r.ExpiresAt
	}
	return l
}

// personalise says whose clone it is.
func (r *record) personalise(want *plan, name string, at time.Time) {
	r.Name, r.Labels, r.Settings, r.LeaseID = name, want.labels, want.settings, want.lease.ID
	r.Owner, r.OwnerUID = want.caller.Name, want.caller.UID()
	r.Egress, r.Peers = want.egress, want.peers
	r.Limits, r.IdleTTL, r.Protected = limits(want.limits), api.Duration(want.idle), want.protect
	if h := want.lease.Holder; h != nil {
		r.Holder = h.String()
	}
	if want.networks != "" {
		r.Networks = strings.Split(want.networks, ",")
	}
	r.CreatedAt = at.Round(0)
}

// wire is what users are told of a clone that runs, but for what is measured.
func (r *record) wire() api.Clone {
	c := api.Clone{
		Schema: api.Schema, ID: r.ID, Name: r.Name, Golden: r.Golden, Version: r.Version, Engine: r.Engine,
		State: api.StateRunning, Created: true, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt,
		URL: r.URLs["tcp"], URLs: r.URLs, Host: r.Host, Port: r.Port, Socket: r.Socket, User: r.User, Password: r.Password, Database: r.Database,
		Egress: r.Egress, Published: r.Published, Networks: r.Networks,
		PID: r.PID, Labels: r.Labels, Settings: r.Settings, Limits: api.Limits(r.Limits), IdleTTL: r.IdleTTL, Protected: r.Protected, Reason: r.Reason,
		Timings: r.Timings, Env: r.Env, UnsetEnv: r.Unset, Client: r.Client, LeaseID: r.LeaseID, Owner: r.Owner, OwnPassword: r.OwnPassword,
		Isolation: r.Isolation,
	}
	if c.URL == "" {
		c.URL = r.URLs["socket"]
	}
	for _, a := range r.Attached {
		c.Attached = append(c.Attached, a.wire())
	}
	return c
}

func (a attachment) wire() api.Attachment {
	return api.Attachment{Schema: api.Schema, IfName: a.IfName, Type: a.Type, Master: a.Master, IP: a.IP, Gateway: a.Gateway, MAC: a.MAC, VLAN: a.VLAN}
}

// describe says what others may know of a clone.
func (r *record) describe() dns.Clone {
	c := dns.Clone{
		ID: r.ID, Name: r.Name, Golden: r.Golden, Lease: r.Peers, Addrs: r.Addrs, Owner: r.OwnerUID,
		Port: uint16(r.Port), Egress: r.Egress, Local: len(r.Networks) == 0, //nolint:gosec // it is a port
	}
	c.Service, _, _ = strings.Cut(r.URLs["tcp"], ":") // the scheme is the registered name
	if c.Addrs == nil && r.Addr.IsValid() {           // made by a version that knew no more
		c.Addrs, c.Lease = []netip.Addr{r.Addr}, r.LeaseID
	}
	return c
}

// namesIn says by which names of a zone others find a clone, the first of them its own alone; none in "".
func (r *record) namesIn(zone string) (names []string) {
	if zone == "" || len(r.Networks) > 0 || !r.Addr.IsValid() {
		return nil
	}
	names = []string{cmp.Or(r.Name, r.ID) + "." + zone}
	if r.Peers != "" {
		names = append(names, r.Golden+"."+strings.ToLower(r.Peers)+"."+zone)
	}
	return names
}
