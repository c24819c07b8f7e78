package golden

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// labelPool on a name's moving record is the size of the pool that was set for
// it. It moves with the record and goes with the name's last version.
const labelPool = "ctrsnap.io/pool-size"

// PoolSizes returns the sizes of pools that are set, by golden name.
func (s *Store) PoolSizes(ctx context.Context) (map[string]int, error) {
	records, err := s.records.images.List(namespaced(ctx), fmt.Sprintf("labels.%q,labels.%q", labelGolden, labelPool))
	if err != nil {
		return nil, fmt.Errorf("list sizes of pools: %w", err)
	}
	sizes := map[string]int{}
	for _, img := range records {
		name, current := strings.CutSuffix(img.Name, currentSuffix)
		if n, err := strconv.Atoi(img.Labels[labelPool]); err == nil && current {
			sizes[name] = n
		}
	}
	return sizes, nil
}

// SetPoolSize sets the size of the pool for a name, durably; below 0 takes it
// back.
func (s *Store) SetPoolSize(ctx context.Context, name string, size int) error {
	value := ""
	if size >= 0 {
		value = strconv.Itoa(size)
	}
	return s.setLabel(ctx, name, labelPool, value, "set size of pool")
}
