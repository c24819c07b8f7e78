package mariadb

import "testing"

func TestDescriptions(t *testing.T) {
	for _, e := range []interface{ Name() string }{New(), NewMySQL()} {
		t.Log(e.Name())
	}
}
