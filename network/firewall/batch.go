package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// batch is a transaction of nf_tables: netlink messages of which the kernel
// does all or none. See nfnetlink.h and nf_tables.h of the kernel. The
// libraries there are do not know the expression fwd.
type batch struct {
	b    []byte
	seq  uint32
	last int // where the last message begins
}

func newBatch() *batch {
	b := &batch{}
	b.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return b
}

// table adds a message about a table of a family.
func (b *batch) table(typ, flags uint16, family byte, attrs func()) {
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, 0, attrs)
}

// message adds a message: nlmsghdr, nfgenmsg, attributes.
func (b *batch) message(typ, flags uint16, family byte, res uint16, attrs func()) {
	b.last = len(b.b)
	b.seq++
	b.b = binary.NativeEndian.AppendUint32(b.b, 0) // the length, later
	b.b = binary.NativeEndian.AppendUint16(b.b, typ)
	b.b = binary.NativeEndian.AppendUint16(b.b, unix.NLM_F_REQUEST|flags)
	b.b = binary.NativeEndian.AppendUint32(b.b, b.seq)
	b.b = binary.NativeEndian.AppendUint32(b.b, 0)
	b.b = append(b.b, family, unix.NFNETLINK_V0)
	b.b = binary.BigEndian.AppendUint16(b.b, res)
	if attrs != nil {
		attrs()
	}
	binary.NativeEndian.PutUint32(b.b[b.last:], uint32(len(b.b)-b.last))
}

// attr adds an attribute to the message under way.
func (b *batch) attr(typ uint16, value []byte) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(4+len(value)))
	b.b = binary.NativeEndian.AppendUint16(b.b, typ)
	b.b = append(b.b, value...)
	b.pad()
}

func (b *batch) str(typ uint16, s string) { b.attr(typ, append([]byte(s), 0)) }

func (b *batch) u32(typ uint16, v uint32) { b.attr(typ, binary.BigEndian.AppendUint32(nil, v)) }

// nest adds an attribute that holds others.
func (b *batch) nest(typ uint16, attrs func()) {
	at := len(b.b)
	b.b = binary.NativeEndian.AppendUint16(b.b, 0)
	b.b = binary.NativeEndian.AppendUint16(b.b, typ|unix.NLA_F_NESTED)
	attrs()
	binary.NativeEndian.PutUint16(b.b[at:], uint16(len(b.b)-at))
}

func (b *batch) pad() {
	for len(b.b)%unix.NLA_ALIGNTO != 0 {
		b.b = append(b.b, 0)
	}
}

// end completes the batch and returns the number of the message whose
// acknowledgement is the end of the answer.
func (b *batch) end() uint32 {
	flags := binary.NativeEndian.Uint16(b.b[b.last+6:])
	binary.NativeEndian.PutUint16(b.b[b.last+6:], flags|unix.NLM_F_ACK)
	last := b.seq
	b.message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return last
}

// socket talks to nf_tables of the network namespace that it was opened in. It
// is not safe for concurrent use, and kept open: the kernel waits, when one is
// closed, until all that was deleted is freed (nft_rcv_nl_event), which takes 14 ms.
type socket struct {
	fd  int
	seq uint32 // of the last message sent
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
	}
	return &socket{fd: fd}, nil
}

// commit has the kernel do a batch. The error wraps the first errno of the
// kernel's: ENOENT for what is not there, EEXIST for what is.
func (s *socket) commit(b *batch) error {
	last := b.end()
	base := s.seq
	s.seq += b.seq
	b.renumber(base)
	// A transaction is one message, however large.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, len(b.b)+1<<16); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendto(s.fd, b.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	return s.receive(base, last)
}

// receive reads answers up to the one to the last message, or to the first if
// the batch was refused as a whole.
func (s *socket) receive(base, last uint32) (first error) {
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Join(first, os.NewSyscallError("recvfrom", err))
		}
		for _, a := range answers(buf[:n]) {
			seq := a.seq - base
			if seq == 0 || seq > last {
				continue // to a batch that was refused before
			}
			if a.err != 0 && first == nil {
				first = fmt.Errorf("nf_tables message %d of %d: %w", seq, last, a.err)
			}
			if seq == last || seq == 1 {
				return first
			}
		}
	}
}

// renumber has the numbers of messages go on where those of the last batch ended.
func (b *batch) renumber(base uint32) {
	for at := 0; at < len(b.b); at += int(binary.NativeEndian.Uint32(b.b[at:])) {
		seq := b.b[at+8:]
		binary.NativeEndian.PutUint32(seq, base+binary.NativeEndian.Uint32(seq))
	}
}

// answer is an NLMSG_ERROR: an acknowledgement if err is 0.
type answer struct {
	seq uint32
	err unix.Errno
}

func answers(b []byte) (list []answer) {
	for len(b) >= unix.SizeofNlMsghdr+4 {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr+4 || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
			code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))
			list = append(list, answer{binary.NativeEndian.Uint32(b[8:]), unix.Errno(-code)})
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return list
}
