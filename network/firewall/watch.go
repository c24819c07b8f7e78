package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch writes the rules anew whenever somebody deletes the tables, as a
// restart of the host's own firewall does, until stop is called. It reports to
// failed what could not be written.
func (f *Firewall) Watch(failed func(error)) (stop func(), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	events := os.NewFile(uintptr(fd), "nf_tables") // Close then ends Read
	err = errors.Join(notElements(fd), unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch firewall: %w", err), events.Close())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.watch(events, failed)
	}()
	return func() { _ = events.Close(); <-done }, nil
}

// notElements has a socket take no messages that begin with what clones cause: a
// program of classic BPF that looks at nlmsg_type. The kernel puts several of a
// transaction's into one, and where a table is deleted the first are of its rules.
func notElements(fd int) error {
	const typeAt = 4
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeAt}} // as if it were big endian
	types := []uint16{unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWGEN}
	for i, typ := range types {
		var b [2]byte
		binary.NativeEndian.PutUint16(b[:], unix.NFNL_SUBSYS_NFTABLES<<8|typ)
		program = append(program, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(types) - i), K: uint32(binary.BigEndian.Uint16(b[:])),
		})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

func (f *Firewall) watch(events *os.File, failed func(error)) {
	buf := make([]byte, 32<<10)
	for {
		n, err := events.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // too many: some may have been ours
			return
		}
		if err == nil && !strings.Contains(string(buf[:n]), f.table) {
			continue
		}
		if err := f.restore(); err != nil {
			failed(err)
		}
	}
}

// restore writes the rules if they are not there. They never are between the
// messages of a transaction of ours.
func (f *Firewall) restore() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deleted || f.present() == nil {
		return nil
	}
	return f.rebuild()
}

// Verify says with FailedPrecondition that the tables are not there.
func (f *Firewall) Verify() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.present()
}

func (f *Firewall) present() error {
	for _, family := range families {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
		req.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(f.table)))
		_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("somebody deleted table %s of nf_tables: %w", f.table, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return fmt.Errorf("look for table %s of nf_tables: %w", f.table, err)
		}
	}
	return nil
}
