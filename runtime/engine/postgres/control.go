package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// control is the head of global/pg_control, which is the same in all
// versions served: struct ControlFileData of catalog/pg_control.h.
type control struct {
	version    uint32
	state      uint32 // enum DBState
	checkpoint uint64 // position of the last checkpoint in the WAL
}

// dbShutdowned is DB_SHUTDOWNED: the server was stopped cleanly.
const dbShutdowned = 1

// dbStates name the values of enum DBState as pg_controldata does.
var dbStates = []string{
	"starting up", "shut down", "shut down in recovery", "shutting down",
	"in crash recovery", "in archive recovery", "in production",
}

func (c control) String() string {
	if int(c.state) < len(dbStates) {
		return dbStates[c.state]
	}
	return fmt.Sprintf("state %d", c.state)
}

// readControl reads the control file of a data directory. One of a machine
// with the other byte order is told by its version.
func readControl(data *os.Root) (control, error) {
	f, err := foreign.Open(data, "global/pg_control")
	if errors.Is(err, fs.ErrNotExist) {
		return control{}, errors.New("global/pg_control is missing")
	}
	if err != nil {
		return control{}, err
	}
	defer f.Close()
	var head [40]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return control{}, errors.New("global/pg_control is cut short")
	}
	order := binary.NativeEndian
	c := control{order.Uint32(head[8:]), order.Uint32(head[16:]), order.Uint64(head[32:])}
	if c.version%65536 == 0 && c.version != 0 {
		return control{}, errors.New("global/pg_control is of an architecture with another byte order")
	}
	return c, nil
}
