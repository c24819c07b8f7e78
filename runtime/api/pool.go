package api

// Pool is the clones that are kept ahead of one golden version.
type Pool struct {
	Schema  int    `json:"schema"`
	Golden  string `json:"golden"`
	Version int    `json:"version"`
	// Size is what was set for the golden; nil means that nothing was.
	Size   *int   `json:"size,omitempty"`
	Auto   bool   `json:"auto"`   // sized by the configuration and the demand
	Wanted int    `json:"wanted"` // how many are to be there now
	Ready  int    `json:"ready"`  // how many are
	Making int    `json:"making"` // how many are being made
	Hits   uint64 `json:"hits"`   // claims since the daemon's start that found one
	Misses uint64 `json:"misses"` // and those that did not
}

// PoolRequest sets the size of a golden's pool, or has the daemon choose it.
type PoolRequest struct {
	Size *int `json:"size,omitempty" minimum:"0" doc:"how many clones to keep ahead; 0 for none"`
	Auto bool `json:"auto,omitempty" doc:"take a size back that was set"`
}
