package api

// Network is a network that clones can be attached to by name.
type Network struct {
	Schema  int      `json:"schema"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`              // bridge, cni, flannel or none
	Default bool     `json:"default"`           // of clones that name none
	File    string   `json:"file,omitempty"`    // its CNI configuration
	Shared  bool     `json:"shared,omitempty"`  // others on this host use it, too
	Plugins []string `json:"plugins,omitempty"` // in the order in which they run
	// Isolation is what keeps clones apart: "lease" (they reach their own lease and,
	// if asked for with egress, what is beyond) or "all" (they reach nobody).
	Isolation string `json:"isolation"`
	Detail    string `json:"detail,omitempty"`
	Problem   string `json:"problem,omitempty"` // why it cannot be used just now
}

// Networks are those that there are, and what is wrong with configurations
// that are none.
type Networks struct {
	Schema   int       `json:"schema"`
	Networks []Network `json:"networks"`
	Problems []string  `json:"problems,omitempty"`
}

// AttachRequest asks for a further interface of a clone, on a network of the
// host.
type AttachRequest struct {
	Type    string `json:"type" enum:"bridge,macvlan,ptp"`
	Master  string `json:"master,omitempty" doc:"interface of the host; a bridge for type bridge, none for ptp"`
	IP      string `json:"ip,omitempty" doc:"address with prefix length, ipam for a free one of the master's range, or dhcp for what a server there gives; default none" example:"192.0.2.7/24"`
	Gateway string `json:"gateway,omitempty" doc:"address that the clone's default route leads to"`
	MAC     string `json:"mac,omitempty" doc:"hardware address"`
	VLAN    int    `json:"vlan,omitempty" minimum:"0" maximum:"4094"`
	IfName  string `json:"ifname,omitempty" doc:"name in the clone; default the first free of eth1, eth2 …"`
}

// Attachment is a further interface that a clone was given.
type Attachment struct {
	Schema  int    `json:"schema"`
	IfName  string `json:"ifname"`
	Type    string `json:"type"`
	Master  string `json:"master,omitempty"`
	IP      string `json:"ip,omitempty"` // with prefix length
	Gateway string `json:"gateway,omitempty"`
	MAC     string `json:"mac,omitempty"`
	VLAN    int    `json:"vlan,omitempty"`
}

// Interface is what the kernel says of an interface of a clone.
type Interface struct {
	Schema    int      `json:"schema"`
	IfName    string   `json:"ifname"`
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"` // with prefix length
	Gateways  []string `json:"gateways,omitempty"`
	// Attached says that it came later; nil is one that the clone was made with.
	Attached *Attachment `json:"attached,omitempty"`
}
