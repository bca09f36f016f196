// Peers written in Go for the interop suite, on the contract of our own interop programs: a grpc-go
// client, a grpc-go server with and without xDS, and go-control-plane as a management server. Each
// prints one JSON object per line on standard output and nothing else there.
package main

import (
	"os"
	"slices"
	"strings"
)

// verbs are the programs.
var verbs = map[string]func([]string) error{"client": client, "server": server, "mgmt": mgmt}

func main() {
	verb := ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	run, ok := verbs[verb]
	if !ok {
		names := make([]string, 0, len(verbs))
		for name := range verbs {
			names = append(names, name)
		}
		slices.Sort(names)
		refuse("usage: peers " + strings.Join(names, "|") + " [flags]")
	}
	if err := run(os.Args[2:]); err != nil {
		refuse(err.Error())
	}
}
