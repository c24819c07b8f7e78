package testsuite

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// lldp is an address that bridges keep to themselves: IEEE 802.1D, table 7-10.
var lldp = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}

// everybody is the broadcast address.
var everybody = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// testSpoofing has a clone that may send any frame send those of others.
func testSpoofing(t *testing.T, open Open) {
	setSysctl(t, "net/ipv4/ip_forward", "1")
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil { // else what is bridged passes the rules for what is routed, too
		setSysctl(t, "net/bridge/bridge-nf-call-iptables", "0")
		setSysctl(t, "net/bridge/bridge-nf-call-ip6tables", "0")
	}
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	a := MustAddTo(t, n, "ca", network.Options{Lease: "one"})
	b := MustAddTo(t, n, "cb", network.Options{Lease: "two"})
	c := MustAddTo(t, n, "cc", network.Options{Lease: "two"})
	hostAsks, atHost := listen(t, 53), listen(t, 1053)
	var atC net.PacketConn
	Inside(t, c, func() error { atC = listen(t, 53); return nil })
	gateways, gatewayMAC := gateways(t, cfg), bridgeMAC(t, cfg)
	macA, macB, macC := macOf(t, a), macOf(t, b), macOf(t, c)

	Inside(t, a, func() error {
		send := rawSocket(t)
		for i, gw := range gateways {
			own, other, target := a.Addrs[i], b.Addrs[i], c.Addrs[i]
			for _, src := range []net.HardwareAddr{macA, macB, macC} {
				send(gatewayMAC, src, datagram(other, gw, 53, "spoof"))
				send(gatewayMAC, src, datagram(other, target, 53, "spoof")) // as one of its lease
				send(gatewayMAC, src, tagged(datagram(other, gw, 53, "spoof")))
				send(gatewayMAC, src, tagged(datagram(other, target, 53, "spoof")))
				send(macC, src, datagram(own, target, 53, "spoof"))
				send(macC, src, datagram(other, target, 53, "spoof"))
				send(everybody, src, datagram(own, target, 53, "spoof"))
				send(everybody, src, datagram(other, target, 53, "spoof"))
				send(lldp, src, datagram(own, gw, 1053, "spoof")) // past the bridge
				send(lldp, src, datagram(other, gw, 53, "spoof"))
			}
			for _, src := range []net.HardwareAddr{macB, macC} {
				send(gatewayMAC, src, datagram(own, gw, 53, "spoof"))
			}
			for _, dst := range []net.HardwareAddr{everybody, gatewayMAC, macC} {
				for _, claimed := range []netip.Addr{other, target, gw} {
					send(dst, macA, claim(macA, claimed, own))
					send(dst, macA, claim(macA, claimed, target))
					send(dst, macA, claim(macA, claimed, gw))
				}
			}
			send(gatewayMAC, macA, datagram(own, gw, 53, "true"))
		}
		return nil
	})
	for range gateways {
		expect(t, "the host's name service", hostAsks, "true")
	}
	for i := range gateways {
		expectTold(t, "a clone of another lease", atC, netip.AddrPortFrom(c.Addrs[i], 53))
		expectTold(t, "a service of the host", atHost, netip.AddrPortFrom(gateways[i], 1053))
	}
	for _, ns := range []network.Namespace{a, b, c} {
		port := EchoIn(t, ns)
		MustReach(t, "the host", ns.Addrs, port)
		if ns.ID == c.ID {
			Inside(t, b, func() error { MustReach(t, "the lease", c.Addrs, port); return nil })
		}
	}
}

func listen(t testing.TB, port int) net.PacketConn {
	t.Helper()
	p, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// expectTold is expect of what is told from here, again if it was lost: nobody promises that a datagram comes.
func expectTold(t testing.TB, who string, p net.PacketConn, to netip.AddrPort) {
	t.Helper()
	for deadline := time.Now().Add(patient); ; {
		tell(t, to)
		if expectWithin(t, who, p, "true", time.Second, time.Now().After(deadline)) {
			return
		}
	}
}

// expect fails if the next datagram is another one.
func expect(t testing.TB, who string, p net.PacketConn, want string) {
	t.Helper()
	expectWithin(t, who, p, want, patient, true)
}

// expectWithin is false if no datagram has come, and that is no failure yet.
func expectWithin(t testing.TB, who string, p net.PacketConn, want string, within time.Duration, last bool) bool {
	t.Helper()
	buf := make([]byte, 64)
	_ = p.SetReadDeadline(time.Now().Add(within))
	n, from, err := p.ReadFrom(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) && !last {
		return false
	}
	if err != nil || string(buf[:n]) != want {
		t.Errorf("%s got %q from %v, %v; want %q", who, buf[:n], from, err, want)
	}
	return true
}

func tell(t testing.TB, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("true")); err != nil {
		t.Error(err)
	}
}

func macOf(t testing.TB, ns network.Namespace) (mac net.HardwareAddr) {
	t.Helper()
	Inside(t, ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac
}

func bridgeMAC(t testing.TB, cfg Config) net.HardwareAddr {
	t.Helper()
	name, _ := lan(t, cfg)
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr
}

// packet is what a frame carries, with its type.
type packet struct {
	typ  uint16
	body []byte
}

// rawSocket returns what sends frames out of eth0 of the calling thread's namespace.
func rawSocket(t testing.TB) func(dst, src net.HardwareAddr, p packet) {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
	return func(dst, src net.HardwareAddr, p packet) {
		frame := append(append([]byte{}, dst...), src...)
		frame = binary.BigEndian.AppendUint16(frame, p.typ)
		if err := unix.Sendto(fd, append(frame, p.body...), 0, to); err != nil {
			t.Error(err)
		}
	}
}

// tagged puts a packet into the VLAN 0, which many take for none.
func tagged(p packet) packet {
	tag := binary.BigEndian.AppendUint16([]byte{0, 0}, p.typ)
	return packet{unix.ETH_P_8021Q, append(tag, p.body...)}
}

// datagram makes an IP packet with UDP.
func datagram(src, dst netip.Addr, port uint16, text string) packet {
	udp := binary.BigEndian.AppendUint16(nil, 5353)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(append(udp, 0, 0), text...)
	return ip(src, dst, unix.IPPROTO_UDP, 64, udp, 6)
}

// ip makes an IP packet; the checksum of what it carries is at an offset there.
func ip(src, dst netip.Addr, proto, ttl byte, body []byte, sumAt int) packet {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, proto)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(body)))
	binary.BigEndian.PutUint16(body[sumAt:], checksum(append(pseudo, body...)))
	if src.Is6() {
		h := append([]byte{0x60, 0, 0, 0}, 0, byte(len(body)), proto, ttl)
		h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
		return packet{unix.ETH_P_IPV6, append(h, body...)}
	}
	h := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, ttl, proto, 0, 0}
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return packet{unix.ETH_P_IP, append(h, body...)}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// claim says that an address is at a hardware address, by ARP (RFC 826) or
// neighbour discovery (RFC 4861, section 4.4).
func claim(mac net.HardwareAddr, claimed, to netip.Addr) packet {
	if claimed.Is4() {
		arp := []byte{0, 1, 8, 0, 6, 4, 0, 2}
		arp = append(append(arp, mac...), claimed.AsSlice()...)
		return packet{unix.ETH_P_ARP, append(append(arp, mac...), to.AsSlice()...)}
	}
	const override, targetLinkAddr = 0x20, 2
	na := append([]byte{136, 0, 0, 0, override, 0, 0, 0}, claimed.AsSlice()...)
	na = append(append(na, targetLinkAddr, 1), mac...)
	return ip(claimed, to, unix.IPPROTO_ICMPV6, 255, na, 2)
}
