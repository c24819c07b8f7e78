// Functions without a body are allowed in packages with an assembly file: those
// in fork.go are linked to the runtime.
