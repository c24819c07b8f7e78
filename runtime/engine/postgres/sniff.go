package postgres

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
)

// format is how a dump is stored.
type format int

const (
	formatUnknown   format = iota
	formatPlain            // SQL of one database, or any script
	formatCluster          // SQL of pg_dumpall
	formatCustom           // pg_dump -Fc
	formatTar              // pg_dump -Ft
	formatDirectory        // pg_dump -Fd
	formatGzip             // one of the others, compressed
	formatZstd
)

// sniffSize is how much of a file is enough to tell its format.
const sniffSize = 4096

// Marks of pg_dump and pg_dumpall.
var (
	markDump    = []byte("\n-- PostgreSQL database dump\n")
	markCluster = []byte("\n-- PostgreSQL database cluster dump\n")
)

// sniff tells the format of a file by its first bytes.
func sniff(head []byte) format {
	switch {
	case bytes.HasPrefix(head, []byte("PGDMP")):
		return formatCustom
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return formatGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return formatZstd
	case isTar(head):
		return formatTar
	case bytes.IndexByte(head, 0) >= 0 || len(bytes.TrimSpace(head)) == 0:
		return formatUnknown
	case bytes.Contains(lf(head), markCluster):
		return formatCluster
	}
	return formatPlain
}

// isTar says whether the first file of a tar archive is pg_dump's table of contents.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	hdr, err := tar.NewReader(bytes.NewReader(head[:512])).Next()
	return err == nil && hdr.Name == "toc.dat"
}

// lf undoes what an editor on Windows did.
func lf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// byProgram says whether pg_dump or pg_dumpall wrote SQL that begins with head.
func byProgram(head []byte) bool {
	head = lf(head)
	return bytes.Contains(head, markDump) || bytes.Contains(head, markCluster)
}

// readHead reads the first bytes, fewer if there are no more.
func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, sniffSize)
	n, err := io.ReadFull(r, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}
