package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// Scripts of a directory see what lies beside them, by relative paths and by those of the official images, and find the socket and
// the programs that images have.
func TestInitDirectory(t *testing.T) {
	w := newBench(t)
	for name, text := range map[string]string{
		"10.sql": "CREATE TABLE got (what text);\n\\ir sub/a.sql\n\\i sub/a.sql\n\\copy got FROM 'sub/x.csv'\n" +
			"COPY got FROM '/docker-entrypoint-initdb.d/sub/x.csv';\n\\set me `whoami`\nINSERT INTO got VALUES (:'me');\n",
		"20.sh": `psql -v ON_ERROR_STOP=1 -h /var/run/postgresql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f /docker-entrypoint-initdb.d/sub/a.sql
			[ "$(stat -c %s /docker-entrypoint-initdb.d/sub/x.csv)" = 2 ] && hostname >/dev/null && readlink -f . >/dev/null`,
		"sub/a.sql": "INSERT INTO got VALUES ('a');", "sub/x.csv": "x\n",
	} {
		path := filepath.Join(w.SourceDir(), "init/0001-d", name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	g, err := w.build(runtime.Sources{Init: []string{"0001-d/10.sql", "0001-d/20.sh"}})
	must(t, err)
	_, ask := w.clone(g, nil)
	if got := ask("SELECT string_agg(what, ' ' ORDER BY what) FROM got"); got != "a a a postgres x x" {
		t.Error(got)
	}
	if _, err := os.Lstat(w.root + "/docker-entrypoint-initdb.d"); !os.IsNotExist(err) {
		t.Error("links are left in the golden:", err)
	}
}

func TestScriptWithCRLF(t *testing.T) {
	w := newBench(t)
	_, err := w.build(runtime.Sources{Init: []string{w.put("init", "1.sh", "set -e\r\nfalse\r\n")}})
	var h interface{ Hint() string }
	if !errors.As(err, &h) || !strings.Contains(h.Hint(), "CR LF") {
		t.Error(err)
	}
}
