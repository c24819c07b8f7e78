package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// Image is what is mended of a storage: see [storage.Storage].
type Image interface {
	Info() (storage.Info, error)
	Grow(ctx context.Context, size int64) error
	Trim() (int64, error)
}

// MendStorage lets the image grow to size bytes, and gives what goldens and clones that are gone have left free in it
// back to the host.
func MendStorage(s Image, size int64) Check {
	return One(func(ctx context.Context) api.Check {
		c := api.Check{Name: "fix storage", Status: ok}
		before, err := s.Info()
		if err == nil && before.Image == "" {
			c.Detail = "nothing to do: it is no image"
			return c
		}
		if err == nil && size > before.ImageSize {
			err = s.Grow(ctx, size)
		}
		if err == nil {
			_, err = s.Trim()
		}
		after, infoErr := s.Info()
		if err = errors.Join(err, infoErr); err != nil {
			c.Status, c.Detail = warning, err.Error()
			return c
		}
		c.Detail = imageChange(before.ImageUsed, after.ImageUsed)
		return c
	})
}

// imageChange says what an image takes of the host's disk. Clones that write meanwhile take
// more of it.
func imageChange(before, after int64) string {
	text := fmt.Sprintf("the image takes %d MiB of the host's disk", after>>20)
	if before>>20 > after>>20 {
		text += fmt.Sprintf(", %d MiB less than before", (before-after)>>20)
	}
	return text
}

// MendPool has the pool look anew at which goldens there are.
func MendPool(refresh func(context.Context) error) Check {
	return One(func(ctx context.Context) api.Check {
		if err := refresh(ctx); err != nil {
			return api.Check{Name: "fix pool", Status: warning, Detail: err.Error()}
		}
		return api.Check{Name: "fix pool", Status: ok, Detail: "it knows all goldens"}
	})
}
