package postgres

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// Settings says what Server does: the clone's over the golden's over the engine's.
func TestSettingsTold(t *testing.T) {
	g := golden(t, state{User: "u"})
	g.Settings = map[string]string{"Work_Mem": "5MB", "shared_preload_libraries": "x,y", "huge_pages": "on"}
	mine := map[string]string{"work_mem": "7MB", "JIT": "off", "full_page_writes": "on"}
	list, err := New().Settings(g, mine)
	must(t, err)
	got := map[string]runtime.Setting{}
	told := map[string]string{}
	for _, s := range list {
		got[s.Name], told[s.Name] = s, s.Value
	}
	for _, want := range []runtime.Setting{
		{Name: "work_mem", Value: "7MB", From: runtime.SettingClone},
		{Name: "jit", Value: "off", From: runtime.SettingClone},
		{Name: "shared_preload_libraries", Value: "x,y", From: runtime.SettingGolden},
		{Name: "huge_pages", Value: "on", From: runtime.SettingGolden},
		{Name: "fsync", Value: "off", From: runtime.SettingEngine, Note: "durability is off: what is written is lost if the host fails"},
		{Name: "full_page_writes", Value: "on", From: runtime.SettingClone},
		{Name: "archive_mode", Value: "off", From: runtime.SettingEngine, Note: notes["archive_mode"]},
	} {
		if diff := cmp.Diff(want, got[want.Name]); diff != "" {
			t.Error(diff)
		}
	}
	p, err := New().Server(g, mine)
	must(t, err)
	given := map[string]string{}
	for i, arg := range p.Args {
		if arg == "-c" {
			k, v, _ := strings.Cut(p.Args[i+1], "=")
			given[k] = v
		}
	}
	if diff := cmp.Diff(given, told); diff != "" {
		t.Error(diff)
	}
}

// TestScramVerifier checks the keys with the exchange of RFC 7677, section 3.
func TestScramVerifier(t *testing.T) {
	decode := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		must(t, err)
		return b
	}
	const salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
	verifier, err := scramVerifier("pencil", decode(salt), 4096)
	must(t, err)
	keys, ok := strings.CutPrefix(verifier, "SCRAM-SHA-256$4096:"+salt+"$")
	if !ok {
		t.Fatal(verifier)
	}
	stored, server, _ := strings.Cut(keys, ":")
	const nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	message := "n=user,r=rOprNGfwEbeRWgbNEkqO,r=" + nonce + ",s=" + salt + ",i=4096,c=biws,r=" + nonce
	sign := func(key string) []byte {
		h := hmac.New(sha256.New, decode(key))
		h.Write([]byte(message))
		return h.Sum(nil)
	}
	if got := base64.StdEncoding.EncodeToString(sign(server)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("server's signature %s", got)
	}
	proof := decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	for i, b := range sign(stored) {
		proof[i] ^= b
	}
	if key := sha256.Sum256(proof); base64.StdEncoding.EncodeToString(key[:]) != stored {
		t.Error("the client's proof does not lead to the stored key")
	}
}
