package pool

import "fmt"

// String says what clones are attached to, for people.
func (p *Pool) String() string {
	return fmt.Sprintf("%v; %d of %d namespaces made ahead", p.inner, p.Spare(), p.opts.Size)
}
