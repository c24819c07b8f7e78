package postgres

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// live is a database to be dumped.
type live struct {
	host, port string
	password   string            // not in params: those are an argument, for all to see
	database   string            // of params
	params     map[string]string // libpq's keywords, but for host and port
	ignored    []string          // parameters of the URL that are other programs'
}

// liveParams are the parameters of a URL that say how the server is spoken to, see https://www.postgresql.org/docs/18/libpq-connect.html.
var liveParams = strings.Fields(`user dbname application_name channel_binding client_encoding connect_timeout fallback_application_name gssencmode
	keepalives keepalives_count keepalives_idle keepalives_interval options require_auth ssl_max_protocol_version
	ssl_min_protocol_version sslcert sslcompression sslkey sslmode sslnegotiation sslrootcert sslsni target_session_attrs tcp_user_timeout`)

// elsewhereParams say where the server is found, or name files of the caller's: the daemon connects to one host, which it has looked at.
var elsewhereParams = strings.Fields("hostaddr service servicefile passfile load_balance_hosts krbsrvname gsslib sslpassword sslcrl sslcrldir")

// otherParams are what other drivers call some of them.
var otherParams = map[string]string{
	"ApplicationName": "application_name", "connectTimeout": "connect_timeout", "loginTimeout": "connect_timeout",
	"applicationName": "application_name", "application-name": "application_name", "channelBinding": "channel_binding", "sslMode": "sslmode", "connect_timeout": "connect_timeout",
}

// errLive is an error in the URL of a live database, which it does not show.
func errLive(what, hint string) error {
	return snapshot.WithHint(fmt.Errorf("url of live database: %s: %w", what, errdefs.ErrInvalidArgument), hint)
}

const liveHint = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

// parseLive reads the URL of a live database, as libpq reads it; other drivers' own parameters are left out.
func parseLive(text string) (live, error) {
	u, err := api.ParseURL(text)
	if err != nil || !isScheme(u.Scheme) || u.Opaque != "" || strings.ContainsRune(text, 0) {
		return live{}, errLive("not a PostgreSQL URL", liveHint)
	}
	l := live{params: map[string]string{"dbname": strings.TrimPrefix(u.Path, "/")}}
	if u.User != nil {
		l.params["user"] = u.User.Username()
		l.password, _ = u.User.Password()
	}
	query, err := parseQuery(u.RawQuery)
	if err != nil {
		return live{}, errLive("its parameters cannot be read", liveHint)
	}
	if strings.Contains(u.Host, ",") {
		return live{}, errHosts()
	}
	l.host, l.port = u.Hostname(), u.Port()
	for _, kv := range query {
		if err := l.set(kv[0], kv[1]); err != nil {
			return live{}, err
		}
	}
	return l.checked()
}

func errHosts() error {
	return errLive("a list of hosts", "give one host; ctrsnap itself chooses one of several")
}

// isScheme takes the schemes of libpq, and those of SQLAlchemy and others, which name a driver.
func isScheme(scheme string) bool {
	kind, _, _ := strings.Cut(scheme, "+")
	return kind == "postgres" || kind == "postgresql"
}

// parseQuery does not take + for a space: libpq does not.
func parseQuery(raw string) (query [][2]string, err error) {
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		name, err1 := url.PathUnescape(name)
		value, err2 := url.PathUnescape(value)
		if err1 != nil || err2 != nil {
			return nil, errdefs.ErrInvalidArgument
		}
		if name != "" {
			query = append(query, [2]string{name, value})
		}
	}
	return query, nil
}

// set takes a parameter.
func (l *live) set(name, value string) error {
	if other, ok := otherParams[name]; ok {
		name = other
	}
	switch {
	case name == "host" && value != "":
		l.host = value
	case name == "port" && value != "":
		l.port = value
	case name == "password":
		l.password = value
	case name == "host", name == "port":
	case name == "ssl":
		if value == "" || value == "true" || value == "1" || value == "require" {
			l.params["sslmode"] = "require"
		}
	case name == "sslmode" && value == "no-verify": // node's
		l.params["sslmode"] = "require"
	case slices.Contains(elsewhereParams, name):
		return errLive("parameter "+name+" is not for dumps", "leave it out: the URL names one host, its port and database; ctrsnap reads PGPASSWORD and ~/.pgpass")
	case slices.Contains(liveParams, name):
		l.params[name] = value
	default:
		l.ignored = append(l.ignored, name)
	}
	return nil
}

// checked says what of a URL is missing.
func (l live) checked() (live, error) {
	switch {
	case l.host == "" || strings.HasPrefix(l.host, "/") || strings.HasPrefix(l.host, "@"):
		return live{}, errLive("a socket of this host is not in the container that dumps", "give a host name or address")
	case strings.Contains(l.host+l.port, ","):
		return live{}, errHosts()
	}
	l.params["dbname"] = cmp.Or(l.params["dbname"], l.params["user"])
	if l.database = l.params["dbname"]; l.database == "" {
		return live{}, errLive("no database", liveHint)
	}
	return l, nil
}

// connString is the connection for libpq.
func (l live) connString() string {
	params := maps.Clone(l.params)
	params["host"], params["port"] = l.host, l.port
	var text []string
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if params[name] != "" {
			text = append(text, name+"="+connValue(params[name]))
		}
	}
	return strings.Join(text, " ")
}

// connValue is a value of a connection string.
func connValue(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}
