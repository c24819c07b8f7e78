// Command ctrsnap is the command line of ctrsnapd: it builds goldens, hands out
// clones of them, and runs jobs with a database of their own.
//
// It speaks HTTP with the daemon and stays lean: no containerd, no gRPC, no
// database driver, because CI jobs start it many times. Each verb has a file.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args))
}

// run executes one command line with the process's own streams and
// environment, and returns the exit code.
func run(args []string) int {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, environ: os.Environ}
	return a.run(args)
}
