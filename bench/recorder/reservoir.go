package recorder

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// keeps is how many values of a series are written out.
const keeps = 300

// reservoir keeps values of any number, each with the same chance (Vitter's
// algorithm R). The chance is the same in each run.
type reservoir struct {
	kept []float64
	seen int64
	rand *rand.Rand
}

func (r *reservoir) add(v float64) {
	r.seen++
	if len(r.kept) < keeps {
		r.kept = append(r.kept, v)
		return
	}
	if r.rand == nil {
		r.rand = rand.New(rand.NewPCG(1, 2))
	}
	if i := r.rand.Int64N(r.seen); i < keeps {
		r.kept[i] = v
	}
}

// values returns what is kept with four significant digits.
func (r *reservoir) values() []float64 {
	var out []float64
	for _, v := range r.kept {
		short, _ := strconv.ParseFloat(fmt.Sprintf("%.4g", v), 64) // what was just written
		out = append(out, short)
	}
	return out
}
