package bench

// Ratio compares two series of one run.
type Ratio struct {
	Name  string  `json:"name"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"` // of the bad ends: p99 of durations, p1 of rates
	Over  string  `json:"over"`
	Under string  `json:"under"`
	Must  float64 `json:"must"`
	Aim   float64 `json:"aim"`
}

// Limit is what a ratio must be and is wished to be. More says that more is
// better: the ratio of rates.
type Limit struct {
	Must, Aim float64
	More      bool
}

// Names are the ratios that scenarios find. Readers rely on them.
var Names = []string{
	"claim_vs_noop", "cold_vs_bare", "cold_big_vs_small", "cold_1000_live_vs_1", "throughput_vs_runc", "throughput_vs_template",
	"cold_vs_template", "query_select_vs_bare", "query_tpcb_vs_bare", "firstwrite_big_vs_small", "destroy_vs_create",
	"plan_claim_p99",
}

// Limits are those of the ratios that have one.
var Limits = map[string]Limit{
	"claim_vs_noop":        {Must: 3, Aim: 2},
	"cold_vs_bare":         {Must: 1.4, Aim: 1.15},
	"cold_big_vs_small":    {Must: 1.15, Aim: 1.05},
	"throughput_vs_runc":   {Must: 2.5, Aim: 4, More: true},
	"cold_vs_template":     {Must: 1, Aim: 0.5},
	"query_select_vs_bare": {Must: 0.9, Aim: 0.98, More: true},
	"query_tpcb_vs_bare":   {Must: 0.9, Aim: 0.98, More: true},
	// Rates, which have no limit.
	"throughput_vs_template": {More: true},
}

// Compare returns the ratio name of two series, and false if one of them has no
// values: there is nothing to compare then.
func Compare(name string, over, under Series) (Ratio, bool) {
	l := Limits[name]
	r := Ratio{Name: name, Over: over.Name, Under: under.Name, Must: l.Must, Aim: l.Aim}
	overBad, underBad := over.P99, under.P99
	if l.More {
		overBad, underBad = over.P1, under.P1
	}
	if over.N == 0 || under.N == 0 || under.P50 <= 0 {
		return r, false
	}
	r.P50 = over.P50 / under.P50
	if underBad > 0 {
		r.P99 = overBad / underBad
	}
	return r, true
}

// OK says that the ratio is where it must be. A ratio without a limit is.
func (r Ratio) OK() bool {
	l, ok := Limits[r.Name]
	switch {
	case !ok || l.Must == 0:
		return true
	case l.More:
		return r.P50 >= l.Must
	case r.Name == "cold_vs_template": // must be faster, not as fast
		return r.P50 < l.Must
	default:
		return r.P50 <= l.Must
	}
}
