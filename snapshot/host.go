package snapshot

// HostTree lists what of this host makes a minimal root filesystem for an
// engine's programs: no package manager's copy of the host, only these files
// and the shared libraries that their ELF headers ask for.
type HostTree struct {
	// Name says what it is, for people: "postgresql 15.18".
	Name string
	// Prefix is the directory, without symbolic links, in which whoever asked for it may own files; "" is none. Outside of it
	// nothing is taken but what root owns and every user of the host reaches.
	Prefix string
	// Reader is who reads the files.
	Reader HostReader
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

// HostReader is a user of the host with whose rights files are read. The zero HostReader is root.
type HostReader struct {
	UID    int
	Groups []int // the primary one first
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
