package build

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range entries {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "content of " + h.Name
			h.Size = int64(len(body))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600} }
func dir(name string) tar.Header  { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700} }
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// extract unpacks into outside/root and returns that directory.
func extract(t testing.TB, data []byte) (outside, digest string, size int64, err error) {
	t.Helper()
	outside = t.TempDir()
	if err := os.Mkdir(filepath.Join(outside, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(outside, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	digest, size, err = untar(root, bytes.NewReader(data))
	return outside, digest, size, err
}

func TestUntar(t *testing.T) {
	script := file("./bin/x.sh")
	script.Mode = 0o4711
	data := tarOf(t, dir("./"), dir("base"), file("base/1"), script, file("deep/er/2"), link("base/l", "../deep/er"), link("up", "."))
	outside, digest, size, err := extract(t, data)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = filepath.WalkDir(outside, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		rel, _ := filepath.Rel(outside, path)
		got[rel] = fi.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(got, ".")
	want := map[string]string{
		"root": "drwxr-xr-x", "root/base": "drwxr-xr-x", "root/base/1": "-rw-r--r--", "root/bin": "drwxr-xr-x",
		"root/bin/x.sh": "-rwxr-xr-x", "root/deep": "drwxr-xr-x", "root/deep/er": "drwxr-xr-x",
		"root/deep/er/2": "-rw-r--r--", "root/base/l": "Lrwxrwxrwx", "root/up": "Lrwxrwxrwx",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := int64(len("content of base/1") + len("content of ./bin/x.sh") + len("content of deep/er/2")); size != want {
		t.Errorf("size %d, want %d", size, want)
	}
	checkDigest(t, digest)
}

// checkDigest wants a digest that depends on content and names, not on times.
func checkDigest(t *testing.T, first string) {
	t.Helper()
	of := func(h tar.Header) string {
		_, digest, _, err := extract(t, tarOf(t, h))
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	old := file("a")
	old.ModTime = old.ModTime.AddDate(1, 0, 0)
	if of(file("a")) != of(old) || of(file("a")) == of(file("b")) || of(file("a")) == first {
		t.Error("digest depends on the wrong things")
	}
}

var hostile = map[string][]tar.Header{
	"parent":                 {file("../x")},
	"parent inside":          {file("a/../../x")},
	"parent that comes back": {file("a/../x")},
	"absolute":               {file("/etc/x")},
	"absolute link":          {link("l", "/etc")},
	"link out":               {link("l", "..")},
	"link out from below":    {dir("d"), link("d/l", "../../x")},
	"link through link":      {dir("a"), link("a/s", ".."), link("l", "a/s/../x")},
	"write through link":     {dir("a"), link("l", "a"), file("l/x")},
	"directory through link": {dir("a"), link("l", "a"), dir("l")},
	"link below link":        {dir("a"), link("s", "."), link("s/s/l", "../../x")},
	"file over link":         {link("l", "a"), file("l")},
	"file over file":         {file("a"), file("a")},
	"file below file":        {file("a"), file("a/b")},
	"link over directory":    {dir("a"), link("a", "b")},
	"hard link":              {file("a"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
	"hard link out":          {{Typeflag: tar.TypeLink, Name: "b", Linkname: "/etc/shadow"}},
	"device":                 {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
	"character device":       {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1}},
	"fifo":                   {{Typeflag: tar.TypeFifo, Name: "p"}},
	"long name":              {file(strings.Repeat("a/", 600) + "x")},
	"long component":         {file(strings.Repeat("a", 300))},
	"long link":              {link("l", strings.Repeat("a", 2000))},
}

func TestUntarHostile(t *testing.T) {
	for name, entries := range hostile {
		t.Run(name, func(t *testing.T) {
			outside, _, _, err := extract(t, tarOf(t, entries...))
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			checkInside(t, outside)
		})
	}
}

// sparseTar is a file of 1 TiB in a tar of 2 KiB, in GNU's old format, which
// archive/tar reads but does not write.
func sparseTar(t testing.TB) []byte {
	data := tarOf(t, file("s"))
	data[156] = 'S' // GNU sparse; its map of one empty piece at the end
	copy(data[257:265], "ustar  \x00")
	clear(data[345:512])
	copy(data[124:136], "00000000000\x00")
	copy(data[386:398], "00000000000\x00") // offset
	copy(data[398:410], "00000000000\x00") // bytes
	copy(data[483:495], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
	return append(checksummed(data[:512]), make([]byte, 1024)...)
}

// checksummed writes the checksum of a header.
func checksummed(header []byte) []byte {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return header
}

// hugeHeader is a header of the given kind (a long name, PAX records) of 2 MiB.
func hugeHeader(t testing.TB, kind byte) []byte {
	header := tarOf(t, file("x"))[:512]
	header[156] = kind
	copy(header[124:136], fmt.Sprintf("%011o\x00", 2<<20))
	return append(checksummed(header), bytes.Repeat([]byte("x"), 3<<20)...)
}

func TestUntarMalformed(t *testing.T) {
	whole := tarOf(t, file("a"), file("b"))
	for name, data := range map[string][]byte{
		"empty": {}, "no entries": make([]byte, 1024), "text": []byte(strings.Repeat("not a tar ", 100)),
		"cut in header": whole[:100], "cut in file": whole[:520], "sparse": sparseTar(t),
		"huge PAX header": hugeHeader(t, 'x'), "huge long name": hugeHeader(t, 'L'),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, size, err := extract(t, data); !errdefs.IsInvalidArgument(err) || size > 1<<20 {
				t.Errorf("size %d, error %v", size, err)
			}
		})
	}
}

// checkInside wants nothing beside the root, no link that leads out of it,
// and nothing but files, directories and links.
func checkInside(t testing.TB, outside string) {
	t.Helper()
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 1 {
		t.Errorf("beside the root: %v %v", list, err)
	}
	base := filepath.Join(outside, "root")
	err = filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if kind := d.Type(); kind != 0 && kind != fs.ModeDir && kind != fs.ModeSymlink {
			t.Errorf("%s is %v", path, kind)
		}
		if d.Type() == fs.ModeSymlink {
			target, err := filepath.EvalSymlinks(path)
			if err == nil && target != base && !strings.HasPrefix(target, base+"/") {
				t.Errorf("%s leads to %s", path, target)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzUntar(f *testing.F) {
	for _, entries := range hostile {
		f.Add(tarOf(f, entries...))
	}
	f.Add(sparseTar(f))
	f.Add(tarOf(f, dir("base"), file("base/1"), link("base/l", "../base")))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside, _, size, _ := extract(t, data)
		checkInside(t, outside)
		if size > int64(len(data)) {
			t.Errorf("%d bytes made of %d", size, len(data))
		}
	})
}

// FuzzSymlink builds trees of links, which random bytes rarely are.
func FuzzSymlink(f *testing.F) {
	f.Add("a", "..", "l", "a/s/../x", "a/b", "../../x")
	f.Add("s", ".", "s/s/l", "../../x", "x", "s/s")
	f.Add("d/e", "..//../x", "m", "d/e", "n", "m/..")
	f.Fuzz(func(t *testing.T, n1, t1, n2, t2, n3, t3 string) {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range []tar.Header{dir("a"), dir("a/b"), link(n1, t1), link(n2, t2), link(n3, t3)} {
			if tw.WriteHeader(&h) != nil {
				return
			}
		}
		_ = tw.Close()
		outside, _, _, _ := extract(t, buf.Bytes())
		checkInside(t, outside)
	})
}
