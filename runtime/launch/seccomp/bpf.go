package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data on machines with the low byte first.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// Conditional jumps.
const (
	opJEQ = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGT = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJGE = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// Jumps out of the conditions of a rule, until resolve knows how far they go:
// miss to behind the rule's result, hit to the next condition.
const (
	miss = 0xff
	hit  = 0xfe
)

func load(off uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
}

func and(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
}

func ret(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

// skip jumps over n instructions, however many.
func skip(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

func jump(op uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: op, Jt: yes, Jf: no, K: k}
}

// test returns the code of one condition: it goes on behind itself if it is met.
// Comparisons are unsigned. Programs of 32 bits have only the low half of an
// argument.
func (a arch) test(c specs.LinuxSeccompArg) ([]unix.SockFilter, error) {
	if c.Index > 5 {
		return nil, fmt.Errorf("linux.seccomp: argument %d: %w", c.Index, errdefs.ErrInvalidArgument)
	}
	value, mask, equal := c.Value, ^uint64(0), c.ValueTwo
	if c.Op == specs.OpMaskedEqual {
		value, mask = equal, c.Value
	}
	var code []unix.SockFilter
	off := offArgs + 8*uint32(c.Index)
	if a.wide {
		high, err := compareHigh(c.Op, uint32(value>>32))
		if err != nil {
			return nil, err
		}
		code = append(part(off+4, uint32(mask>>32)), high...)
	}
	low, err := compareLow(c.Op, uint32(value))
	code = append(append(code, part(off, uint32(mask))...), low...)
	for i := range code { // a hit skips the rest of this condition only
		rest := uint8(len(code) - i - 1)
		if code[i].Jt == hit {
			code[i].Jt = rest
		}
		if code[i].Jf == hit {
			code[i].Jf = rest
		}
	}
	return code, err
}

// part loads half of an argument.
func part(off, mask uint32) []unix.SockFilter {
	if mask == ^uint32(0) {
		return []unix.SockFilter{load(off)}
	}
	return []unix.SockFilter{load(off), and(mask)}
}

// compareHigh decides by the high half, or goes on to the low one.
func compareHigh(op specs.LinuxSeccompOperator, k uint32) ([]unix.SockFilter, error) {
	switch op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		return []unix.SockFilter{jump(opJEQ, k, 0, miss)}, nil
	case specs.OpNotEqual:
		return []unix.SockFilter{jump(opJEQ, k, 0, hit)}, nil
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		return []unix.SockFilter{jump(opJGT, k, hit, 0), jump(opJEQ, k, 0, miss)}, nil
	case specs.OpLessThan, specs.OpLessEqual:
		return []unix.SockFilter{jump(opJGT, k, miss, 0), jump(opJEQ, k, 0, hit)}, nil
	default:
		return nil, fmt.Errorf("linux.seccomp: operator %q: %w", op, errdefs.ErrNotImplemented)
	}
}

// compareLow decides by the low half.
func compareLow(op specs.LinuxSeccompOperator, k uint32) ([]unix.SockFilter, error) {
	switch op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		return []unix.SockFilter{jump(opJEQ, k, 0, miss)}, nil
	case specs.OpNotEqual:
		return []unix.SockFilter{jump(opJEQ, k, miss, 0)}, nil
	case specs.OpGreaterThan:
		return []unix.SockFilter{jump(opJGT, k, 0, miss)}, nil
	case specs.OpGreaterEqual:
		return []unix.SockFilter{jump(opJGE, k, 0, miss)}, nil
	case specs.OpLessThan:
		return []unix.SockFilter{jump(opJGE, k, miss, 0)}, nil
	case specs.OpLessEqual:
		return []unix.SockFilter{jump(opJGT, k, miss, 0)}, nil
	default:
		return nil, fmt.Errorf("linux.seccomp: operator %q: %w", op, errdefs.ErrNotImplemented)
	}
}

// resolve points the misses behind the result that follows the tests.
func resolve(tests []unix.SockFilter) []unix.SockFilter {
	for i := range tests {
		behind := uint8(len(tests) - i) // the rest of the tests and the result
		if tests[i].Jt == miss {
			tests[i].Jt = behind
		}
		if tests[i].Jf == miss {
			tests[i].Jf = behind
		}
	}
	return tests
}
