package api

import "time"

// Event is something that happened. Who sees a clone or a golden sees its events.
type Event struct {
	Schema int       `json:"schema"`
	ID     uint64    `json:"id"` // counts up; begins anew with the daemon
	Time   time.Time `json:"time"`
	Type   EventType `json:"type"`
	Clone  string    `json:"clone,omitempty"` // id
	Name   string    `json:"name,omitempty"`
	Golden string    `json:"golden,omitempty"` // shop:3
	Owner  string    `json:"owner,omitempty"`  // of the clone or golden
	By     string    `json:"by,omitempty"`     // who did it; "" is the daemon
	Reason string    `json:"reason,omitempty"`
}

// EventType says what happened.
type EventType string

// Types of events.
const (
	EventCloneCreated  EventType = "clone.created"
	EventCloneExtended EventType = "clone.extended"
	EventCloneExpiring EventType = "clone.expiring" // it ends soon, unless it is extended
	EventCloneExpired  EventType = "clone.expired"
	EventCloneRestart  EventType = "clone.restarted" // by its user
	EventCloneRemoved  EventType = "clone.removed"
	EventCloneStopped  EventType = "clone.stopped" // by the daemon: Reason says why
	EventCloneDied     EventType = "clone.died"    // its server has ended by itself
	EventGoldenBuilt   EventType = "golden.built"
	EventGoldenChanged EventType = "golden.changed" // promoted, rolled back, given other access
	EventGoldenRemoved EventType = "golden.removed"
	EventGoldenDamaged EventType = "golden.damaged" // it is not what was built, and is not cloned
	EventGoldenSound   EventType = "golden.sound"   // it was taken for damaged, and is not
	EventStorageLow    EventType = "storage.low"    // no clones and goldens are made until it is over
	EventStorageOK     EventType = "storage.ok"
)

// EventTypes are all of them.
var EventTypes = []EventType{
	EventCloneCreated, EventCloneExtended, EventCloneExpiring, EventCloneExpired, EventCloneRestart, EventCloneRemoved, EventCloneStopped, EventCloneDied,
	EventGoldenBuilt, EventGoldenChanged, EventGoldenRemoved, EventGoldenDamaged, EventGoldenSound,
	EventStorageLow, EventStorageOK,
}

// Stats are what clones use, at one moment.
type Stats struct {
	Schema  int          `json:"schema"`
	Clones  []Clone      `json:"clones"`
	Storage StorageStats `json:"storage"`
	Queue   int          `json:"queue"` // requests that wait for their clones
	Pool    int          `json:"pool"`  // clones that wait for requests
}

// StorageStats are bytes of the filesystem that holds goldens and clones.
type StorageStats struct {
	SizeBytes    int64 `json:"size_bytes"`
	FreeBytes    int64 `json:"free_bytes"`
	ReserveBytes int64 `json:"reserve_bytes"` // below it nothing is made
	Low          bool  `json:"low"`
}
