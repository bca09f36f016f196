// Istio as a peer of the interop suite: its own discovery server (the one that its tests start in
// process), the bootstrap files and the certificates that its agent hands to a pod. Nothing of a
// cluster is needed. Each verb prints one JSON object per line; what Istio logs goes to standard
// error.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"istio.io/istio/pkg/log"
)

func main() {
	verbs := map[string]func([]string){
		"discovery": discoveryServer,
		"bootstrap": bootstrap,
		"secrets":   secrets,
		"version":   version,
	}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fail("usage: istio-peer discovery|bootstrap|secrets|version [flags]")
	}
	options := log.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	check(log.Configure(options))
	verbs[os.Args[1]](os.Args[2:])
}

var output sync.Mutex

// say prints an event.
func say(kind string, fields map[string]any) {
	event := map[string]any{"event": kind, "t_ms": float64(time.Now().UnixMicro()) / 1000}
	for name, value := range fields {
		event[name] = value
	}
	line, err := json.Marshal(event)
	if err != nil {
		line = []byte(`{"event":"error","message":"an event that is no JSON"}`)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(line))
}

func fail(message string) {
	say("error", map[string]any{"message": message})
	os.Exit(2)
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

// untilTold calls reload for each SIGHUP and returns at SIGTERM.
func untilTold(reload func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for s := range signals {
		if s != syscall.SIGHUP {
			return
		}
		reload()
	}
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}
