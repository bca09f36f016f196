package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

var standardOutput sync.Mutex

// fields of an event beside its kind and its time.
type fields map[string]any

// say prints one event as one line.
func say(kind string, more fields) {
	event := map[string]any{}
	for name, value := range more {
		event[name] = value
	}
	event["event"] = kind
	if _, set := event["t_ms"]; !set {
		event["t_ms"] = wallClock(time.Now())
	}
	line, err := json.Marshal(event)
	if err != nil {
		line = fmt.Appendf(nil, `{"event":"error","message":%q}`, err.Error())
	}
	standardOutput.Lock()
	defer standardOutput.Unlock()
	// Nobody is left to be told if this fails.
	_, _ = os.Stdout.Write(append(line, '\n'))
}

// refuse ends the process over what it was asked.
func refuse(message string) {
	say("error", fields{"message": message})
	os.Exit(2)
}

// wallClock is a time in milliseconds since 1970.
func wallClock(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// terminated is closed at SIGTERM or SIGINT.
func terminated() <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	told := make(chan struct{})
	go func() {
		<-signals
		close(told)
	}()
	return told
}
