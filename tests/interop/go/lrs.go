package main

import (
	"maps"
	"slices"
	"time"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrs "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// loadReports asks every client for the load of all its clusters. go-control-plane has none of this.
type loadReports struct {
	lrs.UnimplementedLoadReportingServiceServer
}

const reportInterval = 500 * time.Millisecond

func (loadReports) StreamLoadStats(stream lrs.LoadReportingService_StreamLoadStatsServer) error {
	node := ""
	for opened := false; ; {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		if !opened {
			opened = true
			node = request.GetNode().GetId()
			say("lrs_open", fields{"node": node, "features": listed(request.GetNode().GetClientFeatures())})
			answer := &lrs.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(reportInterval)}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		for _, stats := range request.GetClusterStats() {
			say("lrs", clusterStats(node, stats))
		}
	}
}

func clusterStats(node string, stats *endpoint.ClusterStats) fields {
	localities := []fields{}
	for _, l := range stats.GetUpstreamLocalityStats() {
		metrics := fields{}
		for _, m := range l.GetLoadMetricStats() {
			metrics[m.GetMetricName()] = fields{
				"n": m.GetNumRequestsFinishedWithMetric(), "total": m.GetTotalMetricValue()}
		}
		named := map[string]*endpoint.UnnamedEndpointLoadMetricStats{
			"cpu_utilization": l.GetCpuUtilization(), "mem_utilization": l.GetMemUtilization(),
			"application_utilization": l.GetApplicationUtilization()}
		for _, name := range slices.Sorted(maps.Keys(named)) {
			if m := named[name]; m != nil {
				metrics[name] = fields{"n": m.GetNumRequestsFinishedWithMetric(), "total": m.GetTotalMetricValue()}
			}
		}
		localities = append(localities, fields{
			"region": l.GetLocality().GetRegion(), "zone": l.GetLocality().GetZone(),
			"sub_zone": l.GetLocality().GetSubZone(), "success": l.GetTotalSuccessfulRequests(),
			"error": l.GetTotalErrorRequests(), "issued": l.GetTotalIssuedRequests(),
			"in_progress": l.GetTotalRequestsInProgress(), "metrics": metrics})
	}
	drops := fields{}
	for _, d := range stats.GetDroppedRequests() {
		drops[d.GetCategory()] = d.GetDroppedCount()
	}
	return fields{"node": node, "cluster": stats.GetClusterName(), "eds": stats.GetClusterServiceName(),
		"localities": localities, "drops": drops, "total_drops": stats.GetTotalDroppedRequests(),
		"interval_ms": milliseconds(stats.GetLoadReportInterval().AsDuration())}
}
