package server

func isSourceError(error) bool { return false }
