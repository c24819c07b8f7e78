package seccomp

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// x32Bit marks calls of the x32 ABI, which kernels of today are built without.
// They get ENOSYS, as from such a kernel.
const x32Bit = 0x40000000

// call is what becomes of one system call.
type call struct {
	number uint32
	always bool // result holds whatever the arguments are
	result uint32
	rules  []rule // tried in order, for !always
}

// rule is a result for arguments that meet all conditions.
type rule struct {
	conditions []specs.LinuxSeccompArg
	result     uint32
}

// compile returns the section of one architecture; every path of it returns.
func (a arch) compile(p *specs.LinuxSeccomp, def uint32) ([]unix.SockFilter, error) {
	calls, err := a.collect(p, def)
	if err != nil {
		return nil, err
	}
	code := []unix.SockFilter{load(offNumber)}
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		code = append(code, jump(opJGE, x32Bit, 0, 1), ret(retErrno|uint32(unix.ENOSYS)))
	}
	if n, ok := newest(p, calls); ok {
		code = append(code, jump(opJGT, n, 0, 1), ret(retErrno|uint32(unix.ENOSYS)))
	}
	var known []*call
	for _, n := range slices.Sorted(maps.Keys(calls)) {
		if c := calls[n]; !c.always || c.result != def {
			known = append(known, c)
		}
	}
	tree, err := a.tree(runs(known, def), def)
	return append(code, tree...), err
}

// collect gathers the rules by number. A rule without conditions wins over those
// with, as in libseccomp; rules with the default result are dropped, as by runc.
func (a arch) collect(p *specs.LinuxSeccomp, def uint32) (map[uint32]*call, error) {
	numbers, err := a.numbers()
	if err != nil {
		return nil, err
	}
	calls := map[uint32]*call{}
	for i, s := range p.Syscalls {
		res, err := result(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("linux.seccomp.syscalls[%d]: %w", i, err)
		}
		for _, name := range s.Names {
			n, ok := numbers[name]
			if !ok {
				continue // not of this architecture, or newer than the table
			}
			c := calls[n]
			if c == nil {
				c = &call{number: n, always: true, result: def}
				calls[n] = c
			}
			if res == def {
				continue
			}
			if err := c.add(s.Args, res, def); err != nil {
				return nil, fmt.Errorf("linux.seccomp.syscalls[%d]: %s: %w", i, name, err)
			}
		}
	}
	return calls, nil
}

// add adds a rule. Conditions on one argument more than once are alternatives,
// as in runc. Different results for one call are not worth their order.
func (c *call) add(args []specs.LinuxSeccompArg, res, def uint32) error {
	if c.always && c.result != def { // nothing is above a rule without conditions
		if c.result != res {
			return fmt.Errorf("rules that contradict each other: %w", errdefs.ErrNotImplemented)
		}
		return nil
	}
	for _, r := range c.rules {
		if r.result != res {
			return fmt.Errorf("rules with different actions: %w", errdefs.ErrNotImplemented)
		}
	}
	if len(args) == 0 {
		c.always, c.result, c.rules = true, res, nil
		return nil
	}
	c.always = false
	if !repeats(args) {
		c.rules = append(c.rules, rule{args, res})
		return nil
	}
	for i := range args {
		c.rules = append(c.rules, rule{args[i : i+1], res})
	}
	return nil
}

func repeats(args []specs.LinuxSeccompArg) bool {
	var seen [6]bool
	for _, a := range args {
		if a.Index < 6 && seen[a.Index] {
			return true
		}
		if a.Index < 6 {
			seen[a.Index] = true
		}
	}
	return false
}

// newest returns the highest number of the profile: whatever is above is newer
// than the profile and gets ENOSYS, so that programs fall back to older calls, as with
// runc. Profiles that allow by default have no such limit.
func newest(p *specs.LinuxSeccomp, calls map[uint32]*call) (uint32, bool) {
	if len(calls) == 0 || p.DefaultAction == specs.ActAllow || p.DefaultAction == specs.ActLog ||
		p.DefaultErrnoRet != nil && *p.DefaultErrnoRet == uint(unix.ENOSYS) {
		return 0, false
	}
	return slices.Max(slices.Collect(maps.Keys(calls))), true
}

// run is a range of calls, from its first up to that of the next run.
type run struct {
	first uint32
	call  *call // its number does not count
}

// runs divides all numbers into ranges of calls with one result.
func runs(calls []*call, def uint32) []run {
	other := &call{always: true, result: def}
	list := []run{{0, other}}
	next := uint32(0)
	put := func(first uint32, c *call) {
		last := &list[len(list)-1]
		switch {
		case last.call.always && c.always && last.call.result == c.result:
		case last.first == first:
			last.call = c
		default:
			list = append(list, run{first, c})
		}
	}
	for _, c := range calls {
		if c.number > next {
			put(next, other)
		}
		put(c.number, c)
		next = c.number + 1
	}
	put(next, other)
	return list
}

// tree finds the run of a number by halving.
func (a arch) tree(list []run, def uint32) ([]unix.SockFilter, error) {
	if len(list) == 1 {
		return a.leaf(list[0].call, def)
	}
	half := len(list) / 2
	below, err := a.tree(list[:half], def)
	if err != nil {
		return nil, err
	}
	above, err := a.tree(list[half:], def)
	if err != nil {
		return nil, err
	}
	code := []unix.SockFilter{jump(opJGE, list[half].first, 0, 1), skip(len(below))}
	return append(append(code, below...), above...), nil
}

// leaf returns the result of one call.
func (a arch) leaf(c *call, def uint32) ([]unix.SockFilter, error) {
	if c.always {
		return []unix.SockFilter{ret(c.result)}, nil
	}
	var code []unix.SockFilter
	for _, r := range c.rules {
		var tests []unix.SockFilter
		for _, cond := range r.conditions {
			t, err := a.test(cond)
			if err != nil {
				return nil, err
			}
			tests = append(tests, t...)
		}
		if len(tests) >= miss {
			return nil, fmt.Errorf("linux.seccomp: a rule with %d instructions: %w", len(tests), errdefs.ErrNotImplemented)
		}
		code = append(append(code, resolve(tests)...), ret(r.result))
	}
	return append(code, ret(def)), nil
}
