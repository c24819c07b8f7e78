package attach

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	probes     = 2
	probeEvery = 150 * time.Millisecond // answers of a link take well below a millisecond
)

// probe asks on a link who has an IPv4 address, as RFC 5227, section 2.1.1,
// has it, but waits less. It returns nil if nobody answers.
func probe(link netlink.Link, a netip.Addr) (net.HardwareAddr, error) {
	arp := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(arp))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Attrs().Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Attrs().Index}); err != nil {
		return nil, err
	}
	for range probes {
		if err := unix.Sendto(fd, request(link.Attrs().HardwareAddr, a), 0, to); err != nil {
			return nil, err
		}
		if mac, err := answer(fd, a, time.Now().Add(probeEvery)); mac != nil || err != nil {
			return mac, err
		}
	}
	return nil, nil
}

// request is an ARP probe: see RFC 826 for the form.
func request(from net.HardwareAddr, a netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(b, from...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(b, a.AsSlice()...)
}

// answer waits for a frame whose sender has the address.
func answer(fd int, a netip.Addr, until time.Time) (net.HardwareAddr, error) {
	b := make([]byte, 1500)
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil, nil
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		if n >= 28 && bytes.Equal(b[14:18], a.AsSlice()) {
			return net.HardwareAddr(bytes.Clone(b[8:14])), nil
		}
	}
}
