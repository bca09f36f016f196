// judge tells what grpc-go makes of a corpus of resources: it dials every target of a plan under the
// control plane of its bootstrap, and asks its own status service (CSDS) what was acknowledged and
// what was refused.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	statuspb "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/xds"
	"google.golang.org/grpc/xds/csds"

	adminpb "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
)

// plan is what to subscribe to and what to wait for.
type plan struct {
	Targets []string `json:"targets"`
	Cases   []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	} `json:"cases"`
}

// known is what the process says of one resource.
type known struct {
	accepted bool
	detail   string
}

func main() {
	file := flag.String("plan", "", "what to judge")
	limit := flag.Duration("limit", 60*time.Second, "how long to wait for the control plane")
	flag.Parse()
	if err := run(*file, *limit); err != nil {
		say(map[string]any{"event": "error", "message": err.Error()})
		os.Exit(2)
	}
}

func say(event map[string]any) {
	event["t_ms"] = float64(time.Now().UnixMicro()) / 1000
	line, _ := json.Marshal(event)
	fmt.Println(string(line))
}

func run(file string, limit time.Duration) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var plan plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return err
	}
	for _, target := range plan.Targets {
		conn, err := grpc.NewClient("xds:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		// Never closed: a channel that has not got its configuration does not survive it in 1.85.0.
		conn.Connect()
	}
	own, err := csds.NewClientStatusDiscoveryServer()
	if err != nil {
		return err
	}
	defer own.Close()
	deadline := time.Now().Add(limit)
	for {
		verdicts, err := ask(own)
		if err != nil {
			return err
		}
		missing := 0
		for _, each := range plan.Cases {
			if _, ok := verdicts[each.Type+" "+each.Name]; !ok {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			for _, each := range plan.Cases {
				verdict, ok := verdicts[each.Type+" "+each.Name]
				if !ok {
					say(map[string]any{"event": "unjudged", "case": each.Name})
					continue
				}
				say(map[string]any{"event": "verdict", "case": each.Name, "accepted": verdict.accepted, "error": verdict.detail})
			}
			say(map[string]any{"event": "summary", "cases": len(plan.Cases), "unjudged": missing, "grpc": grpc.Version})
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask reads the process's own status.
func ask(own *csds.ClientStatusDiscoveryServer) (map[string]known, error) {
	answer, err := own.FetchClientStatus(context.Background(), &statuspb.ClientStatusRequest{})
	if err != nil {
		return nil, err
	}
	verdicts := map[string]known{}
	for _, client := range answer.GetConfig() {
		for _, resource := range client.GetGenericXdsConfigs() {
			key := resource.GetTypeUrl() + " " + resource.GetName()
			switch resource.GetClientStatus() {
			case adminpb.ClientResourceStatus_ACKED:
				verdicts[key] = known{accepted: true}
			case adminpb.ClientResourceStatus_NACKED:
				verdicts[key] = known{detail: resource.GetErrorState().GetDetails()}
			}
		}
	}
	return verdicts, nil
}
