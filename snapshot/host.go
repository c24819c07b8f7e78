package snapshot

// HostTree lists what of this host makes a minimal root filesystem for an
// engine's programs: no package manager's copy of the host, only these files
// and the shared libraries that their ELF headers ask for.
type HostTree struct {
	// Name says what it is, for people: "postgresql 15.18".
	Name string
	// Files are copied, each with the shared libraries it needs.
	Files []HostFile
	// LibraryPath are host directories searched for shared libraries before
	// the system's own.
	LibraryPath []string
	// Users become entries of /etc/passwd and /etc/group beside root's.
	Users []User
	// Dirs are made empty, with the given owner: a data directory's parent, /tmp.
	Dirs []HostDir
}

// HostFile is one file or directory tree of the host.
type HostFile struct {
	Source string // absolute path on the host; a directory is copied whole
	Target string // absolute path in the root filesystem
	// Optional files may be missing on the host.
	Optional bool
}

// HostDir is a directory to be made.
type HostDir struct {
	Path     string
	Mode     uint32 // permission bits
	UID, GID int
}

// User is a user with a group of the same name and number.
type User struct {
	Name string
	ID   int
	Home string
}
