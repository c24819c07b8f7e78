package host

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// dyn is one entry of a dynamic section whose value is a string.
type dyn struct {
	tag   elf.DynTag
	value string
}

var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "ppc64le": elf.EM_PPC64,
	"s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
}

// writeELF writes a file that has what a loader reads of an object for this
// host, and no code.
func writeELF(t testing.TB, name, interp string, entries ...dyn) {
	t.Helper()
	writeELFFor(t, name, machines[runtime.GOARCH], interp, entries...)
}

func writeELFFor(t testing.TB, name string, machine elf.Machine, interp string, entries ...dyn) {
	t.Helper()
	strs := []byte{0}
	var dynamic bytes.Buffer
	for _, e := range entries {
		must(t, binary.Write(&dynamic, binary.LittleEndian, elf.Dyn64{Tag: int64(e.tag), Val: uint64(len(strs))}))
		strs = append(append(strs, e.value...), 0)
	}
	must(t, binary.Write(&dynamic, binary.LittleEndian, elf.Dyn64{}))

	const header, program, section = 64, 56, 64
	at := uint64(header + program)
	interpAt := at
	at += uint64(len(interp) + 1)
	strAt := at
	at += uint64(len(strs))
	dynAt := at
	at += uint64(dynamic.Len())

	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1,
		Phoff: header, Phentsize: program, Phnum: 1, Ehsize: header,
		Shoff: at, Shentsize: section, Shnum: 3, Shstrndx: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	p := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interpAt, Filesz: uint64(len(interp) + 1)}
	if interp == "" {
		p.Type = uint32(elf.PT_NULL)
	}
	var b bytes.Buffer
	for _, v := range []any{
		h, p, append([]byte(interp), 0), strs, dynamic.Bytes(),
		elf.Section64{},
		elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(strs))},
		elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(dynamic.Len()), Link: 1, Entsize: 16},
	} {
		must(t, binary.Write(&b, binary.LittleEndian, v))
	}
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, b.Bytes(), 0o755))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzParseELF feeds what a stranger may have put into a prefix.
func FuzzParseELF(f *testing.F) {
	if b, err := os.ReadFile("/bin/sh"); err == nil {
		f.Add(b[:min(len(b), 4096)])
	}
	name := filepath.Join(f.TempDir(), "liba.so")
	writeELF(f, name, "/ld.so", dyn{elf.DT_NEEDED, "libb.so"}, dyn{elf.DT_RUNPATH, "$ORIGIN:"})
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseELF(bytes.NewReader(b))
		if err == nil && o != nil {
			o.source, o.target = "/a/b", "/c/d"
			for _, p := range newLoader(nil).places(o) {
				if !filepath.IsAbs(p.host) || !filepath.IsAbs(p.target) {
					t.Errorf("relative place %v", p)
				}
			}
		}
	})
}
