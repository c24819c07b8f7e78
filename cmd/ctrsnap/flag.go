package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// optional is a flag with an optional value: --flag, or --flag=VALUE.
type optional struct {
	set   bool
	value string
	check func(string) error // of the value, if there is one
}

// Set takes "true" where the flag has no value.
func (o *optional) Set(s string) error {
	o.set = true
	if s == "true" {
		s = ""
	}
	o.value = s
	if s == "" || o.check == nil {
		return nil
	}
	return o.check(s)
}

func (o *optional) String() string { return o.value }

// Get is for the parser.
func (o *optional) Get() any { return o.value }

// IsBoolFlag tells the parser that the flag does not eat the next argument.
func (o *optional) IsBoolFlag() bool { return true }

// on is the value of a flag that is true without one.
func (o *optional) on() bool {
	if o.value == "" {
		return true
	}
	on, _ := strconv.ParseBool(o.value) // checked when it was parsed
	return on
}

func isBool(s string) error {
	if _, err := strconv.ParseBool(s); err != nil {
		return errors.New("want true or false")
	}
	return nil
}

func optionalFlag(name, usage string, o *optional) cli.Flag {
	return &cli.GenericFlag{Name: name, Usage: usage, Value: o}
}

// pairs is a repeatable flag of K=V.
type pairs map[string]string

// Set adds one pair. The value may hold anything, = and comma too.
func (p pairs) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("want KEY=VALUE")
	}
	p[k] = v
	return nil
}

func (p pairs) String() string { return "" }

// Get is for the parser.
func (p pairs) Get() any { return p }

func pairsFlag(name, usage string, p *pairs, aliases ...string) cli.Flag {
	*p = pairs{}
	return &cli.GenericFlag{Name: name, Aliases: aliases, Usage: usage, Value: *p}
}

// oneOf is a validator.
func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(values, s) {
			return nil
		}
		return fmt.Errorf("want one of %s", strings.Join(values, ", "))
	}
}

func positive(d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("want more than 0")
	}
	return nil
}

func isDuration(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("want a form like 90s, 30m or 2h")
	}
	return positive(d)
}

// durationFlag is a flag like 90s, 30m or 2h; more than 0.
func durationFlag(name, usage string, d *api.Duration) cli.Flag {
	return &cli.GenericFlag{Name: name, Usage: usage, Value: (*duration)(d)}
}

// ttl returns the value of --ttl, or that of CTRSNAP_TTL, or 0.
func (a *app) ttl(flag api.Duration) (api.Duration, error) {
	env := a.getenv("CTRSNAP_TTL")
	if flag != 0 || env == "" {
		return flag, nil
	}
	if err := (*duration)(&flag).Set(env); err != nil {
		return 0, usagef("correct or unset it").of("invalid CTRSNAP_TTL %q in the environment: %v", env, err)
	}
	return flag, nil
}

type duration api.Duration

// Set parses the duration.
func (d *duration) Set(s string) error {
	if err := isDuration(s); err != nil {
		return err
	}
	return (*api.Duration)(d).UnmarshalText([]byte(s))
}

func (d *duration) String() string {
	if d == nil || *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Get is for the parser.
func (d *duration) Get() any { return *d }

func timeoutFlag(d *api.Duration) cli.Flag {
	return durationFlag("timeout", "give up after `D` (90s, 10m)", d)
}

func quietFlag(quiet *bool, usage string) cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: usage, Destination: quiet}
}

// arguments returns the positional arguments, which ArgsUsage names: [ARG] need not be there, ARG… may be several. What
// follows -- is no part of them.
func arguments(cmd *cli.Command) ([]string, error) {
	usage, _, _ := strings.Cut(cmd.ArgsUsage, "--")
	words := strings.Fields(strings.TrimSuffix(usage, "["))
	most, least := len(words), 0
	for i, w := range words {
		if words[i] = strings.Trim(w, "[]…"); words[i] == strings.TrimRight(w, "…") {
			least++
		}
		if strings.HasSuffix(w, "…") {
			most = cmd.NArg()
		}
	}
	if n := cmd.NArg(); n < least || n > most {
		return nil, wrongArgs(cmd, strings.Join(words, " and "), n < least)
	}
	return cmd.Args().Slice(), nil
}

func wrongArgs(cmd *cli.Command, want string, few bool) error {
	usage := usagef("usage: ctrsnap %s [flags] %s", verb(cmd), cmd.ArgsUsage)
	switch {
	case few:
		return usage.of("%s: %s is missing", verb(cmd), want)
	case want == "":
		return usage.of("%s: unexpected argument %q", verb(cmd), cmd.Args().First())
	}
	return usage.of("%s: too many arguments: want %s only", verb(cmd), want)
}

// reach are the flags that say what a clone's network is like.
type reach struct {
	egress  optional
	ip      string
	publish []string
}

func (r *reach) flags() []cli.Flag {
	r.egress.check = isBool
	return []cli.Flag{
		optionalFlag("egress", "let it reach what is beyond the host, or not with `[=false]`; default the daemon's", &r.egress),
		&cli.StringFlag{Name: "ip", Usage: "wanted IPv4 `ADDRESS`, of the daemon's subnet", Destination: &r.ip},
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "have `[IP:]PORT` of this host lead to it, 0 for a free port (repeatable)", Destination: &r.publish},
	}
}

// apply completes a request.
func (r *reach) apply(req *api.CloneRequest) {
	req.IP, req.Publish = r.ip, r.publish
	if r.egress.set {
		on := r.egress.on()
		req.Egress = &on
	}
}

// commaList splits a flag that takes several values; none is nil.
func commaList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
