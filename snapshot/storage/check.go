package storage

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Check is one finding about the storage, for people.
type Check struct {
	Name   string
	Status string // one of the Status constants
	Detail string // what is
	Why    string // why it matters
	Fix    string // what to do
}

// Values of Check.Status.
const (
	StatusOK      = "ok"
	StatusWarning = "warning"
	StatusError   = "error"
)

const whyReflink = "a clone's first write to a file copies the file unless it can share extents: " +
	"some 250 ms for a table of 130 MB, seconds for 1 GiB, and as much disk; 6 to 8 ms with reflinks"

// Checks says what is good and bad about the storage.
func (s *Storage) Checks() []Check {
	i, err := s.Info()
	if err != nil {
		return []Check{{Name: "storage", Status: StatusError, Detail: err.Error()}}
	}
	if err := s.Alive(); err != nil {
		why := "no clone can be made, and those that run have lost their files"
		return []Check{{Name: "storage", Status: StatusError, Detail: err.Error(), Why: why, Fix: strings.TrimPrefix(hintOf(err), "; ")}}
	}
	checks := []Check{checkReflink(i), checkSpace(i)}
	if i.LoopDevice != "" {
		checks = append(checks, checkImage(i))
	}
	return checks
}

func checkReflink(i Info) Check {
	c := Check{Name: "storage", Status: StatusOK, Why: whyReflink}
	c.Detail = fmt.Sprintf("%s at %s", i.Filesystem, i.Dir)
	if i.LoopDevice != "" {
		c.Detail += fmt.Sprintf(", image %s on %s", i.Image, i.LoopDevice)
	}
	if i.Reflink {
		c.Detail += ", reflinks"
	} else {
		c.Status = StatusWarning
		c.Detail += ", no reflinks"
		c.Fix = "install xfsprogs and start with an empty storage directory, or put it on XFS or Btrfs"
	}
	if i.Warning != "" {
		c.Status = StatusWarning
		c.Detail += ": " + i.Warning
	}
	return c
}

func checkSpace(i Info) Check {
	c := Check{
		Name: "storage-space", Status: StatusOK,
		Detail: fmt.Sprintf("%s of %s free", gib(i.Free), gib(i.Size)),
		Why:    "without space neither goldens are built nor can clones write",
	}
	if i.Free < i.Size/10 {
		c.Status = StatusWarning
		c.Fix = "remove goldens or clones, or make the storage larger"
	}
	return c
}

// checkImage compares what the image may still take with what the host has.
func checkImage(i Info) Check {
	c := Check{
		Name: "storage-image", Status: StatusOK,
		Detail: fmt.Sprintf("takes %s of at most %s, the host has %s free", gib(i.ImageUsed), gib(i.ImageSize), gib(i.HostFree)),
		Why:    "the image is sparse: if the host's disk fills up before it does, writes fail and XFS shuts down",
	}
	if i.HostFree < i.Free {
		c.Status = StatusWarning
		c.Fix = "free space on the filesystem of " + i.Image
	}
	return c
}

func gib(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// Foresee says what Open would find or make with these options, and changes nothing.
func Foresee(o Options) []Check {
	c := Check{Name: "storage", Status: StatusOK, Why: whyReflink}
	if exists(o.Image) {
		c.Detail = "image " + o.Image + " is there"
		return []Check{c}
	}
	dir := o.Dir
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	reflink, err := probe(dir)
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	switch {
	case err != nil:
		c.Status, c.Detail = StatusError, fmt.Sprintf("%s: %v", dir, err)
	case reflink:
		c.Detail = fmt.Sprintf("%s at %s, reflinks", fsName(st.Type), dir)
	default:
		c.Detail = fmt.Sprintf("%s at %s has no reflinks: an image with XFS is made there", fsName(st.Type), dir)
		_, err = findMkfs("")
		if err == nil && o.Size == 0 {
			_, err = autoSize(dir)
		}
		if err == nil && !exists("/dev/loop-control") {
			err = noLoop(fs.ErrNotExist)
		}
		if err != nil {
			c.Status, c.Detail, c.Fix = StatusWarning, fmt.Sprintf("%s at %s has no reflinks, and no image can be made: %v", fsName(st.Type), dir, err), strings.TrimPrefix(hintOf(err), "; ")
		}
	}
	if st.Type == unix.TMPFS_MAGIC {
		return []Check{c, {Name: "root directory", Status: StatusWarning, Detail: dir + " is in memory", Why: "goldens are gone with the next boot", Fix: "set root to a directory on a disk"}}
	}
	return []Check{c}
}
