// Command ctrsnap-shim is the shim of containerd's runtime
// io.containerd.ctrsnap.v1. containerd starts it by containerd-shim-ctrsnap-v1.
package main

import "github.com/ctrsnap/ctrsnap/runtime/shim"

func main() { shim.Main() }
