package postgres

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// hostileSettings are settings of a database, or of a role, that are an application's business and would stop ours, or change what is loaded.
const hostileSettings = `statement_timeout = '1ms'
lock_timeout = '1ms'
idle_in_transaction_session_timeout = '1ms'
default_transaction_read_only = on
default_transaction_isolation = 'serializable'
default_transaction_deferrable = on
role = 'app'
search_path = 'nowhere'
row_security = off
array_nulls = off
"DateStyle" = 'SQL, DMY'
"IntervalStyle" = 'sql_standard'
client_encoding = 'LATIN1'
standard_conforming_strings = off
default_tablespace = ''
session_replication_role = 'replica'
log_statement = 'all'
log_min_duration_statement = 0
log_min_error_statement = 'debug5'
exit_on_error = on
transform_null_equals = on
bytea_output = 'escape'
extra_float_digits = '-15'
work_mem = '64kB'`

func serverMajor(t *testing.T) int {
	t.Helper()
	out, err := installed(t).command("postgres", "--version").Output()
	must(t, err)
	words := strings.Fields(string(out))
	return major(words[2])
}

// alter sets them all by statements that begin so.
func alter(begin string, version int) string {
	list := hostileSettings
	if version >= 14 {
		list += "\nidle_session_timeout = '1ms'"
	}
	if version >= 17 {
		list += "\ntransaction_timeout = '1ms'"
	}
	var sql strings.Builder
	for set := range strings.Lines(list) {
		sql.WriteString(begin + " SET " + strings.TrimSpace(set) + ";\n")
	}
	return sql.String()
}

// TestSessionsOverSettings says that what a database, or a role, has set stops neither a build nor a clone, and stays.
func TestSessionsOverSettings(t *testing.T) {
	base(t)
	mine := "-c statement_timeout=0" // of the test's own psql
	if serverMajor(t) >= 14 {
		mine += " -c idle_session_timeout=0"
	}
	t.Setenv("PGOPTIONS", mine)
	for _, begin := range []string{"ALTER DATABASE shop", "ALTER ROLE postgres", "ALTER ROLE postgres IN DATABASE shop"} {
		t.Run(begin, func(t *testing.T) {
			w := newBench(t)
			w.put("init", "1.sql", "CREATE ROLE app; CREATE TABLE t AS SELECT i, i::text AS s FROM generate_series(1, 30000) i;\n"+alter(begin, serverMajor(t)))
			// Scripts have the settings but those that would end them, masks as well.
			w.put("init", "2.sql", "SET role = none; CREATE TABLE public.after (n int); INSERT INTO public.after SELECT count(*) FROM public.t; SELECT pg_sleep(0.01);")
			w.put("init", "3.sh", "psql -v ON_ERROR_STOP=1 -c 'SET role = none; INSERT INTO public.after SELECT 1; SELECT pg_sleep(0.01)'")
			w.put("mask", "m.sql", "RESET role; SET role = none; UPDATE public.t SET s = 'x'; SELECT pg_sleep(0.01);")
			g, err := w.build(runtime.Sources{Init: []string{"1.sql", "2.sql", "3.sh"}, Mask: []string{"m.sql"}})
			must(t, err)
			p, err := New().Server(g, nil)
			must(t, err)
			s, err := w.serve(p)
			must(t, err)
			defer s.Stop(context.Background(), syscall.SIGKILL)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			must(t, New().Ready(ctx, g, s.Endpoint(), s.Died()))
			must(t, New().Query(ctx, g, s.Endpoint()))
			c, err := New().Connect(g, s.Endpoint())
			must(t, err)
			session, err := New().OpenPassword(ctx, g, s.Endpoint())
			must(t, err)
			defer session.Close()
			<-time.After(20 * time.Millisecond) // longer than the session may be idle by its settings
			pw, err := New().NewPassword()
			must(t, err)
			must(t, session.Set(ctx, pw))
			u := state{User: c.User, Passwd: pw.Text, DB: c.Database}.url(net.JoinHostPort(c.Host, "5432"), nil)
			if got := psqlURL(t, u, "SHOW work_mem"); got != "64kB" {
				t.Errorf("the setting is lost: %s", got)
			}
			if strings.Contains(w.text(), pw.Verifier) {
				t.Error("the verifier is in the server's log")
			}
		})
	}
}

// TestDumpOverSettings says that settings of a dump's own database change nothing of its data, and are there in the end.
func TestDumpOverSettings(t *testing.T) {
	w := newBench(t)
	text := "--\n-- PostgreSQL database dump\n--\n\nCREATE DATABASE sales;\nCREATE ROLE app;\n" + alter("ALTER DATABASE sales", serverMajor(t)) + `\connect sales
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.t (a text[], i interval, d date, page text);
COPY public.t (a, i, d, page) FROM stdin;
{NULL,x}	-1 days +02:03:04	2020-03-02	Köln
\.
SELECT pg_catalog.pg_sleep(0.01);
--
-- PostgreSQL database dump complete
--
`
	w.put("dump", "d.sql", text)
	g, err := w.build(runtime.Sources{Dump: "d.sql"})
	must(t, err)
	mine := "-c statement_timeout=0 -c datestyle=ISO -c client_encoding=UTF8 -c role=none"
	if serverMajor(t) >= 14 {
		mine += " -c idle_session_timeout=0"
	}
	t.Setenv("PGOPTIONS", mine)
	p, err := New().Server(g, nil)
	must(t, err)
	s, err := w.serve(p)
	must(t, err)
	defer s.Stop(context.Background(), syscall.SIGKILL)
	must(t, New().Ready(t.Context(), g, s.Endpoint(), s.Died()))
	c, err := New().Connect(g, s.Endpoint())
	must(t, err)
	const want = "t|-1|2020-03-02|Köln|64kB|sales|postgres"
	if got := psqlURL(t, c.URLs["tcp"], `SELECT a[1] IS NULL, extract(day from i), d, page, current_setting('work_mem'), current_database(), tableowner
		FROM public.t, pg_catalog.pg_tables WHERE tablename = 't'`); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
