package testsuite

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftFamilies are those of the firewall's tables.
var nftFamilies = []uint8{unix.NFPROTO_NETDEV, unix.NFPROTO_INET}

// Tables lists the firewall's tables in the kernel.
func Tables(t testing.TB) (names []string) {
	t.Helper()
	for _, family := range nftFamilies {
		for _, attrs := range dump(t, unix.NFT_MSG_GETTABLE, family) {
			name := text(attrs[unix.NFTA_TABLE_NAME])
			if strings.HasPrefix(name, "ctrsnap-") {
				names = append(names, name)
			}
		}
	}
	return names
}

// Elements lists what a table's sets hold, by set: keys and values in hex, in order.
func Elements(t testing.TB, table string, sets ...string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, family := range nftFamilies {
		for _, attrs := range dump(t, unix.NFT_MSG_GETSET, family, nl.NewRtAttr(unix.NFTA_SET_TABLE, nl.ZeroTerminated(table))) {
			name := text(attrs[unix.NFTA_SET_NAME])
			if len(sets) > 0 && !slices.Contains(sets, name) {
				continue
			}
			found[name] = elements(t, family, table, name)
		}
	}
	return found
}

func elements(t testing.TB, family uint8, table, set string) []string {
	t.Helper()
	list := []string{}
	for _, attrs := range dump(t, unix.NFT_MSG_GETSETELEM, family,
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(table)),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)),
	) {
		for _, e := range children(t, attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			s := ""
			for _, part := range children(t, e.value) {
				if part.typ == unix.NFTA_SET_ELEM_KEY || part.typ == unix.NFTA_SET_ELEM_DATA {
					s += fmt.Sprintf("%x ", children(t, part.value)[0].value)
				}
			}
			list = append(list, strings.TrimSpace(s))
		}
	}
	slices.Sort(list)
	return list
}

type attribute struct {
	typ   uint16
	value []byte
}

// dump asks nf_tables for a list.
func dump(t testing.TB, typ int, family uint8, with ...*nl.RtAttr) (list []map[uint16][]byte) {
	t.Helper()
	msgs, err := whole(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
		for _, a := range with {
			req.AddData(a)
		}
		return req.Execute(unix.NETLINK_NETFILTER, 0)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatalf("ask nf_tables: %v", err)
	}
	for _, m := range msgs {
		attrs := map[uint16][]byte{}
		for _, a := range children(t, m[nl.SizeofNfgenmsg:]) {
			attrs[a.typ] = a.value
		}
		list = append(list, attrs)
	}
	return list
}

func children(t testing.TB, b []byte) (list []attribute) {
	t.Helper()
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attrs {
		list = append(list, attribute{a.Attr.Type &^ unix.NLA_F_NESTED, a.Value})
	}
	return list
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// DeleteTables deletes the firewall's tables behind its back.
func DeleteTables(t testing.TB) {
	t.Helper()
	tables := slices.Compact(Tables(t))
	for _, name := range tables {
		for _, family := range nftFamilies {
			begin := batchMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC)
			del := batchMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, family)
			del.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(name)))
			end := batchMessage(unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC)
			send(t, begin, del, end)
		}
	}
}

func batchMessage(typ int, family uint8) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, 0)
	res := uint16(0)
	if family == unix.AF_UNSPEC {
		res = unix.NFNL_SUBSYS_NFTABLES
	}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, ResId: res<<8 | res>>8})
	return req
}

// send sends messages as one.
func send(t testing.TB, messages ...*nl.NetlinkRequest) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var b []byte
	for _, m := range messages {
		b = append(b, m.Serialize()...)
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
}
