package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) netCommand() *cli.Command {
	return &cli.Command{
		Name:     "net",
		Usage:    "list networks, and attach clones to those of the host",
		Commands: []*cli.Command{a.netLsCommand(), a.netInspectCommand(), a.netAttachCommand(), a.netDetachCommand()},
	}
}

func (a *app) netLsCommand() *cli.Command {
	out, f := newOutput("table", "json", "name"), &filter{}
	return &cli.Command{
		Name:      "ls",
		Aliases:   []string{"list"},
		Usage:     "list the networks that --network takes, or the interfaces of a clone",
		ArgsUsage: "[CLONE]",
		Description: `   ctrsnap net ls
   ctrsnap net ls pr-42`,
		Flags: append(f.flags(out), out.flags()...),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				list, err := client.Do(ctx, d, api.ListInterfaces, api.CloneArgs{ID: args[0]})
				if err != nil {
					return about(err, "net ls %s", args[0])
				}
				if list, err = chosen(f, list); err != nil {
					return err
				}
				return interfaceListing.print(a.stdout, out, list)
			}
			list, err := client.Do(ctx, d, api.ListNetworks, api.None{})
			if err != nil {
				return about(err, "net ls")
			}
			if list.Networks, err = chosen(f, list.Networks); err != nil {
				return err
			}
			return a.printNetworks(out, list)
		},
	}
}

var networkListing = listing[api.Network]{"networks", "NAME KIND STATE PLUGINS FILE", func(n api.Network) []string {
	state := "ok"
	if n.Problem != "" {
		state = "unusable"
	}
	return []string{n.Name, n.Kind, state, strings.Join(n.Plugins, ","), n.File}
}, func(n api.Network) string { return n.Name }}

func (a *app) printNetworks(out *output, list api.Networks) error {
	switch out.format {
	case "json", "yaml":
		return printDocument(a.stdout, out, list, nil)
	case "table":
		for _, n := range list.Networks {
			if n.Problem != "" {
				a.hint("network %s: %s", n.Name, n.Problem)
			}
		}
		for _, p := range list.Problems {
			a.hint("%s", p)
		}
	}
	return networkListing.print(a.stdout, out, list.Networks)
}

var interfaceListing = listing[api.Interface]{"interfaces", "INTERFACE MAC ADDRESSES GATEWAY ATTACHED MASTER", func(i api.Interface) []string {
	typ, master := "", ""
	if i.Attached != nil {
		typ, master = i.Attached.Type, i.Attached.Master
	}
	return []string{i.IfName, i.MAC, strings.Join(i.Addresses, ","), strings.Join(i.Gateways, ","), typ, master}
}, func(i api.Interface) string { return i.IfName }}

func (a *app) netInspectCommand() *cli.Command {
	return inspectCommand(a, networkListing, "NETWORK", "net inspect", networkNamed, &cli.Command{
		Name:  "inspect",
		Usage: "show a network as JSON",
		Description: `   ctrsnap net inspect default
   ctrsnap net inspect flannel --format '{{.problem}}'`,
	})
}

func networkNamed(ctx context.Context, d *client.Client, name string) (api.Network, error) {
	list, err := client.Do(ctx, d, api.ListNetworks, api.None{})
	if err != nil {
		return api.Network{}, err
	}
	i := slices.IndexFunc(list.Networks, func(n api.Network) bool { return n.Name == name })
	if i < 0 {
		return api.Network{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("net inspect %s: no network has that name", name), Hint: "'ctrsnap net ls' lists the networks"}
	}
	return list.Networks[i], nil
}

const netAttachHelp = `The clone gets a further interface and this command prints its name.

   bridge    a port of the bridge --master
   macvlan   a child of the interface --master, with a hardware address of its own;
             the host itself does not reach it
   ptp       a link to this host alone, which then forwards

--ip ipam takes a free address of the range that the master has itself, --ip dhcp one
that a server there gives. Without --ip
there is no address. --gateway alone is the first address of the range.

An interface on a network of the host is in that network: nothing of what keeps
clones apart holds there. So root may attach, and network.admin_group of the daemon's
configuration.

   ctrsnap net attach pr-42 --type macvlan --master eth1 --ip 192.0.2.7/24
   ctrsnap net attach pr-42 --type bridge --master br0 --ip ipam --gateway=192.0.2.1`

func (a *app) netAttachCommand() *cli.Command {
	out := newOutput("name", "json")
	var req api.AttachRequest
	gateway := optional{check: func(s string) error { _, err := netip.ParseAddr(s); return err }}
	return showCommand(a, out, &cli.Command{
		Name:        "attach",
		Usage:       "attach a clone to a network of the host while it runs",
		ArgsUsage:   "CLONE",
		Description: netAttachHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "type", Usage: "`bridge|macvlan|ptp`", Destination: &req.Type, Validator: oneOf("bridge", "macvlan", "ptp")},
			&cli.StringFlag{Name: "master", Usage: "interface `IF` of the host", Destination: &req.Master},
			&cli.StringFlag{Name: "ip", Usage: "address with prefix length: `CIDR|ipam|dhcp`", Destination: &req.IP},
			optionalFlag("gateway", "lead the clone's default route to `=ADDR`, or to the first address of --ip", &gateway),
			&cli.StringFlag{Name: "mac", Usage: "hardware address `MAC`", Destination: &req.MAC},
			&cli.IntFlag{Name: "vlan", Usage: "VLAN `ID` of 802.1Q, from 1 to 4094", HideDefault: true, Destination: &req.VLAN},
			&cli.StringFlag{Name: "ifname", Usage: "`NAME` in the clone", DefaultText: "the first free of eth1, eth2 …", Destination: &req.IfName},
		},
	}, func(ctx context.Context, d *client.Client, args []string) (_ api.Attachment, err error) {
		if req.Type == "" {
			return api.Attachment{}, usagef("see ctrsnap net attach --help").of("net attach: --type is missing")
		}
		if req.Gateway, err = gatewayOf(gateway, req.IP); err != nil {
			return api.Attachment{}, err
		}
		return client.Do(ctx, d, api.AttachInterface, api.AttachArgs{ID: args[0], Body: req})
	}, func(w io.Writer, att api.Attachment) error {
		_, err := fmt.Fprintln(w, att.IfName)
		return err
	})
}

// gatewayOf finds what --gateway alone means.
func gatewayOf(o optional, ip string) (string, error) {
	if !o.set || o.value != "" {
		return o.value, nil
	}
	p, err := netip.ParsePrefix(ip)
	if err != nil {
		return "", usagef("give the address: --gateway=192.0.2.1").of("net attach: --gateway alone needs --ip with an address")
	}
	return p.Masked().Addr().Next().String(), nil
}

func (a *app) netDetachCommand() *cli.Command {
	return &cli.Command{
		Name:        "detach",
		Usage:       "take an interface away that was attached",
		ArgsUsage:   "CLONE INTERFACE",
		Description: "   ctrsnap net detach pr-42 eth1",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return about(client.Tell(ctx, d, api.DetachInterface, api.DetachArgs{ID: args[0], IfName: args[1]}), "net detach %s %s", args[0], args[1])
		},
	}
}
