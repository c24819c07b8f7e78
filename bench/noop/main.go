// Command noop prints one line: the shortest that a command line program in Go
// can take, and so the measure of ctrsnap's own.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("postgresql://\n") }
