package access

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Payers says whose limits hold for whom. A user runs processes as each of the ids that subuid(5) gives to them: as many
// users would have as many quotas. It is safe for concurrent use.
type Payers struct {
	path string

	mu     sync.Mutex
	read   time.Time // when the file was last changed that ranges are of
	ranges []idRange
}

// idRange is ids that the file gives to a user.
type idRange struct{ first, count, owner int }

// NewPayers reads what path, "/etc/subuid", says whenever that has changed.
func NewPayers(path string) *Payers { return &Payers{path: path} }

// Of returns the user whose limits hold for uid: uid itself but for ids that belong to somebody.
func (p *Payers) Of(uid int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refresh()
	for _, r := range p.ranges {
		if uid >= r.first && uid-r.first < r.count {
			return r.owner
		}
	}
	return uid
}

func (p *Payers) refresh() {
	info, err := os.Stat(p.path)
	if err != nil {
		p.ranges, p.read = nil, time.Time{}
		return
	}
	if info.ModTime().Equal(p.read) {
		return
	}
	text, err := os.ReadFile(p.path)
	if err != nil {
		return // what held before holds until it can be read
	}
	p.ranges, p.read = nil, info.ModTime()
	for line := range strings.Lines(string(text)) {
		if r, ok := parseRange(strings.TrimSpace(line)); ok {
			p.ranges = append(p.ranges, r)
		}
	}
}

// parseRange reads LOGIN:FIRST:COUNT, where the login may be a number.
func parseRange(line string) (r idRange, ok bool) {
	fields := strings.Split(line, ":")
	if len(fields) != 3 {
		return r, false
	}
	var err error
	if r.owner, err = strconv.Atoi(fields[0]); err != nil {
		u, err := user.Lookup(fields[0])
		if err != nil {
			return r, false
		}
		if r.owner, err = strconv.Atoi(u.Uid); err != nil {
			return r, false
		}
	}
	if r.first, err = strconv.Atoi(fields[1]); err != nil {
		return r, false
	}
	r.count, err = strconv.Atoi(fields[2])
	return r, err == nil && r.first > 0 && r.owner > 0
}
