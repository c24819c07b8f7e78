package testsuite

import "testing"

// test is one of a suite.
type test struct {
	name string
	run  func(*testing.T, Open)
}

// ofAny hold for any network that the host reaches, whatever it looks like.
var ofAny = []test{
	{"RemoveIsIdempotent", testRemove},
	{"IDsAreNames", testIDs},
	{"ConcurrentAdds", testConcurrentAdds},
	{"AddAndRemoveOfOneID", testRace},
	{"AddUndoesEachStep", testUndo},
	{"AddCanceled", testCanceled},
	{"Crash", testCrash},
	{"SubnetExhausted", testExhausted},
	{"ReconcileSparesTheLiving", testReconcile},
	{"Teardown", testTeardown},
}

// RunAny runs the part of the suite that holds for any network.
func RunAny(t *testing.T, open Open) { runAll(t, open, ofAny) }

func runAll(t *testing.T, open Open, tests []test) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open) })
	}
}
