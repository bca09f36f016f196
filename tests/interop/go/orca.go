package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	oobpb "github.com/cncf/xds/go/xds/service/orca/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/orca"
)

// load is what a server says about its own load.
type load struct {
	mode               string
	cpu, app, qps, eps float64
	named              *[][2]string
	namedValues        map[string]float64
	oobMs              int
}

func orcaFlags(set *flag.FlagSet) *load {
	l := &load{namedValues: map[string]float64{}}
	set.StringVar(&l.mode, "orca", "none", "none, per-request, oob or both")
	set.Float64Var(&l.cpu, "orca-cpu", 0, "cpu_utilization")
	set.Float64Var(&l.app, "orca-app", 0, "application_utilization")
	set.Float64Var(&l.qps, "orca-qps", 100, "rps_fractional")
	set.Float64Var(&l.eps, "orca-eps", 0, "eps")
	l.named = pairs(set, "orca-named", "=", "a named metric")
	set.IntVar(&l.oobMs, "orca-oob-ms", 1000, "shortest interval granted out of band")
	return l
}

func (l *load) check() error {
	if !slices.Contains([]string{"none", "per-request", "oob", "both"}, l.mode) {
		return fmt.Errorf("--orca: no mode %q", l.mode)
	}
	for _, metric := range *l.named {
		value, err := strconv.ParseFloat(metric[1], 64)
		if err != nil {
			return fmt.Errorf("--orca-named: %w", err)
		}
		l.namedValues[metric[0]] = value
	}
	return nil
}

// options report with each answer.
func (l *load) options() []grpc.ServerOption {
	if l.mode != "per-request" && l.mode != "both" {
		return nil
	}
	unary := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		l.record(ctx)
		return next(ctx, request)
	}
	stream := func(service any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		l.record(s.Context())
		return next(service, s)
	}
	return []grpc.ServerOption{orca.CallMetricsServerOption(nil),
		grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

func (l *load) record(ctx context.Context) {
	recorder := orca.CallMetricsRecorderFromContext(ctx)
	if recorder == nil {
		return
	}
	recorder.SetCPUUtilization(l.cpu)
	if l.app > 0 {
		recorder.SetApplicationUtilization(l.app)
	}
	recorder.SetQPS(l.qps)
	recorder.SetEPS(l.eps)
	for name, value := range l.namedValues {
		recorder.SetNamedMetric(name, value)
	}
}

// register reports out of band. grpc-go's own service grants nothing shorter than 30 s.
func (l *load) register(s grpc.ServiceRegistrar) {
	if l.mode == "oob" || l.mode == "both" {
		oobpb.RegisterOpenRcaServiceServer(s, outOfBand{load: l})
	}
}

type outOfBand struct {
	oobpb.UnimplementedOpenRcaServiceServer
	load *load
}

func (o outOfBand) StreamCoreMetrics(r *oobpb.OrcaLoadReportRequest, stream oobpb.OpenRcaService_StreamCoreMetricsServer) error {
	shortest := time.Duration(o.load.oobMs) * time.Millisecond
	ticks := time.NewTicker(max(r.GetReportInterval().AsDuration(), shortest, time.Millisecond))
	defer ticks.Stop()
	for {
		report := &orcapb.OrcaLoadReport{CpuUtilization: o.load.cpu, ApplicationUtilization: o.load.app,
			RpsFractional: o.load.qps, Eps: o.load.eps}
		if err := stream.Send(report); err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-stream.Context().Done():
			return nil
		}
	}
}
