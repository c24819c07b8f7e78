package firewall

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Keys and attributes of nf_tables.h that x/sys has not.
const (
	metaIIFKind = 26 // NFT_META_IIFKIND
	fwdAddr     = 2  // NFTA_FWD_SREG_ADDR
	fwdProto    = 3  // NFTA_FWD_NFPROTO
	ctKnown     = 6  // of ct state: NF_CT_STATE_BIT of established and related
	icmpxAdmin  = unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED
)

// verdicts of netfilter.h.
const (
	drop   = 0
	accept = 1
)

// reg is the n-th register, of 4 bytes.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// expr is a part of a rule: a rule ends at the first that does not match.
type expr func(b *batch)

func expression(name string, attrs func(b *batch)) expr {
	return func(b *batch) {
		b.nest(unix.NFTA_LIST_ELEM, func() {
			b.str(unix.NFTA_EXPR_NAME, name)
			b.nest(unix.NFTA_EXPR_DATA, func() { attrs(b) })
		})
	}
}

// meta loads what is known of a packet beside its bytes.
func meta(key, dst uint32) expr {
	return expression("meta", func(b *batch) {
		b.u32(unix.NFTA_META_DREG, reg(dst))
		b.u32(unix.NFTA_META_KEY, key)
	})
}

// setMark has the packet carry what is in a register.
func setMark(src uint32) expr {
	return expression("meta", func(b *batch) {
		b.u32(unix.NFTA_META_KEY, unix.NFT_META_MARK)
		b.u32(unix.NFTA_META_SREG, reg(src))
	})
}

// load puts a value into a register.
func load(dst uint32, value ...byte) expr {
	return expression("immediate", func(b *batch) {
		b.u32(unix.NFTA_IMMEDIATE_DREG, reg(dst))
		b.nest(unix.NFTA_IMMEDIATE_DATA, func() { b.attr(unix.NFTA_DATA_VALUE, value) })
	})
}

// payload loads bytes of a header.
func payload(base, offset, size, dst uint32) expr {
	return expression("payload", func(b *batch) {
		b.u32(unix.NFTA_PAYLOAD_DREG, reg(dst))
		b.u32(unix.NFTA_PAYLOAD_BASE, base)
		b.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.u32(unix.NFTA_PAYLOAD_LEN, size)
	})
}

// equal and unequal compare a register.
func equal(src uint32, value ...byte) expr   { return compare(unix.NFT_CMP_EQ, src, value) }
func unequal(src uint32, value ...byte) expr { return compare(unix.NFT_CMP_NEQ, src, value) }

func compare(op, src uint32, value []byte) expr {
	return expression("cmp", func(b *batch) {
		b.u32(unix.NFTA_CMP_SREG, reg(src))
		b.u32(unix.NFTA_CMP_OP, op)
		b.nest(unix.NFTA_CMP_DATA, func() { b.attr(unix.NFTA_DATA_VALUE, value) })
	})
}

// in matches if a set has the key that begins at a register; notIn if not.
func in(set string, src uint32) expr    { return lookup(set, src, nil, 0) }
func notIn(set string, src uint32) expr { return lookup(set, src, nil, unix.NFT_LOOKUP_F_INV) }

// mapped matches if a map has the key, and loads the value.
func mapped(set string, src, dst uint32) expr { return lookup(set, src, &dst, 0) }

func lookup(set string, src uint32, dst *uint32, flags uint32) expr {
	return expression("lookup", func(b *batch) {
		b.str(unix.NFTA_LOOKUP_SET, set)
		b.u32(unix.NFTA_LOOKUP_SREG, reg(src))
		if dst != nil {
			b.u32(unix.NFTA_LOOKUP_DREG, reg(*dst))
		}
		if flags != 0 {
			b.u32(unix.NFTA_LOOKUP_FLAGS, flags)
		}
	})
}

// known matches packets of connections that the other side began, and the
// errors about them.
func known() []expr {
	const r = 0
	mask := binary.NativeEndian.AppendUint32(nil, ctKnown)
	return []expr{
		expression("ct", func(b *batch) {
			b.u32(unix.NFTA_CT_DREG, reg(r))
			b.u32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
		}),
		and(r, mask),
		unequal(r, 0, 0, 0, 0),
	}
}

// and keeps the bits of a register that a mask has.
func and(r uint32, mask []byte) expr {
	return expression("bitwise", func(b *batch) {
		b.u32(unix.NFTA_BITWISE_SREG, reg(r))
		b.u32(unix.NFTA_BITWISE_DREG, reg(r))
		b.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask))) //nolint:gosec // an address at most
		b.nest(unix.NFTA_BITWISE_MASK, func() { b.attr(unix.NFTA_DATA_VALUE, mask) })
		b.nest(unix.NFTA_BITWISE_XOR, func() { b.attr(unix.NFTA_DATA_VALUE, make([]byte, len(mask))) })
	})
}

// verdict ends the way of a packet through a chain.
func verdict(code int32) expr { return goTo(code, "") }

// jump has a packet go through another chain first.
func jump(chain string) expr { return goTo(unix.NFT_JUMP, chain) }

func goTo(code int32, chain string) expr {
	return expression("immediate", func(b *batch) {
		b.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.nest(unix.NFTA_IMMEDIATE_DATA, func() {
			b.nest(unix.NFTA_DATA_VERDICT, func() {
				b.u32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					b.str(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	})
}

// reject drops a packet and tells its sender.
func reject() expr {
	return expression("reject", func(b *batch) {
		b.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
		b.attr(unix.NFTA_REJECT_ICMP_CODE, []byte{icmpxAdmin})
	})
}

// masquerade gives a packet the host's address.
func masquerade() expr { return expression("masq", func(*batch) {}) }

// forward sends a packet to the neighbour with the address in a register, out
// of the device in another.
func forward(device, addr uint32, family byte) expr {
	return expression("fwd", func(b *batch) {
		b.u32(unix.NFTA_FWD_SREG_DEV, reg(device))
		b.u32(fwdAddr, reg(addr))
		b.u32(fwdProto, uint32(family))
	})
}

func concat(parts ...[]expr) (all []expr) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
