package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Duration is a time.Duration written as "90s" or "2h".
type Duration time.Duration

// maxDuration bounds durations: what is longer is a mistake.
const maxDuration = 10 * 365 * 24 * time.Hour

// MarshalText writes Go's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	switch {
	case err != nil:
		return fmt.Errorf("invalid duration %.64q: want a form like 90s, 15m or 2h", b)
	case v < 0 || v > maxDuration:
		return fmt.Errorf("duration %s is out of range: want 0s to %s", v, maxDuration)
	}
	*d = Duration(v)
	return nil
}

// checkDurations refuses numbers where durations belong, which TOML's decoder would take for nanoseconds. given is the file
// as it is, of is what it is decoded to.
func checkDurations(given map[string]any, of reflect.Type, path string) error {
	for i := range of.NumField() {
		field := of.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		value, ok := given[key]
		if !ok {
			continue
		}
		if table, ok := value.(map[string]any); ok && field.Type.Kind() == reflect.Struct {
			if err := checkDurations(table, field.Type, path+key+"."); err != nil {
				return err
			}
		}
		if _, isText := value.(string); field.Type == reflect.TypeFor[Duration]() && !isText && value != int64(0) {
			return errors.New(path + key + fmt.Sprintf(": %v has no unit: want a form like \"90s\", \"15m\" or \"2h\"", value))
		}
	}
	return nil
}
