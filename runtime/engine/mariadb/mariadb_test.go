package mariadb

import "testing"

func TestDescriptions(t *testing.T) {
	for _, e := range []interface{ Name() string }{New(), NewMySQL()} {
		t.Log(e.Name())
	}
}

// MariaDB is told what its own PASSWORD() makes of a password, MySQL the password.
func TestVerifier(t *testing.T) {
	const password, hash = "password", "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
	if got := (protocol{hash: true}).Verifier(password); got != hash {
		t.Errorf("MariaDB is told %q, want %q", got, hash)
	}
	if got := (protocol{}).Verifier(password); got != password {
		t.Errorf("MySQL is told %q", got)
	}
}
