package api

// Limits bound what a clone takes; 0 is no bound of its own.
type Limits struct {
	MemoryBytes int64   `json:"memory_bytes,omitempty" minimum:"0" doc:"of its processes together; what needs more is killed"`
	CPUs        float64 `json:"cpus,omitempty" minimum:"0" doc:"CPU time, as in 1.5"`
	Pids        int64   `json:"pids,omitempty" minimum:"0" doc:"processes and threads"`
	DiskBytes   int64   `json:"disk_bytes,omitempty" minimum:"0" doc:"of its own: what it shares with its golden does not count; a clone beyond it is stopped"`
	Connections int     `json:"connections,omitempty" minimum:"0" doc:"to its server at a time"`
}
