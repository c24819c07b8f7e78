package bridge

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// setSysctl sets a value of a link of the host, of "ipv4" or "ipv6". One that
// the kernel has not, or does not let us write, stays as it is.
func setSysctl(family, link, key, value string) error {
	err := os.WriteFile("/proc/sys/net/"+family+"/conf/"+link+"/"+key, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("set %s of %s for %s: %w", key, link, family, err)
	}
	return nil
}

// sysctl reads such a value; "" if there is none.
func sysctl(family, link, key string) string {
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + link + "/" + key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
