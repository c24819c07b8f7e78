package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// The daemon speaks to the proxy by packets of a unix socket, a request and an
// answer in turn. What is listened on comes with the request: see
// SCM_RIGHTS in unix(7).
type (
	request struct {
		Op string         `json:"op"` // add, remove, list
		ID string         `json:"id,omitempty"`
		To netip.AddrPort `json:"to,omitzero"`
	}
	reply struct {
		Error string   `json:"error,omitempty"`
		IDs   []string `json:"ids,omitempty"`
	}
)

const (
	opAdd    = "add"
	opRemove = "remove"
	opList   = "list"

	maxPacket    = 128 << 10 // bytes: the ids of thousands of clones
	maxListeners = 8         // of one id
)

// send writes a packet, with listeners.
func send(c *net.UnixConn, packet any, listeners ...*net.TCPListener) error {
	doc, err := json.Marshal(packet)
	if err != nil {
		return err
	}
	if len(doc) > maxPacket {
		return fmt.Errorf("packet of %d bytes: %w", len(doc), unix.EMSGSIZE)
	}
	return withFDs(listeners, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		_, _, err := c.WriteMsgUnix(doc, rights, nil)
		return err
	})
}

// withFDs calls do with the file descriptors of listeners. They are not to be had
// by File, which makes a listener block.
func withFDs(listeners []*net.TCPListener, fds []int, do func([]int) error) error {
	if len(listeners) == 0 {
		return do(fds)
	}
	raw, err := listeners[0].SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = withFDs(listeners[1:], append(fds, int(fd)), do) })
	return errors.Join(err, ctlErr)
}

// receive reads a packet, and the files that came with it.
func receive(c *net.UnixConn, packet any) ([]*os.File, error) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*maxListeners))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(oob[:oobn])
	if err == nil {
		err = json.Unmarshal(buf[:n], packet)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func filesOf(oob []byte) (files []*os.File, _ error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "listener"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
