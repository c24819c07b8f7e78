package testsuite

import "testing"

// RunAny runs the part of the suite that holds for any network that the host
// reaches, whatever it looks like.
func RunAny(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
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
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open) })
	}
}
