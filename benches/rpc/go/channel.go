package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/xds"
)

// dial opens the case's channels: one to each server, to be dealt by hand, or one that the control
// plane configures.
func dial(name string, lab *lab, certificates string) ([]*grpc.ClientConn, error) {
	switch name {
	case "grpc-go":
		security, err := plainSecurity(certificates)
		if err != nil {
			return nil, err
		}
		var channels []*grpc.ClientConn
		for _, server := range lab.Servers {
			channel, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(security))
			if err != nil {
				return nil, err
			}
			channels = append(channels, channel)
		}
		return channels, nil
	case "grpc-go-xds":
		channel, err := dialXDS(lab, certificates)
		return []*grpc.ClientConn{channel}, err
	}
	return nil, fmt.Errorf("--case: %q is neither grpc-go nor grpc-go-xds", name)
}

func plainSecurity(certificates string) (credentials.TransportCredentials, error) {
	if certificates == "" {
		return insecure.NewCredentials(), nil
	}
	own, err := tls.LoadX509KeyPair(
		filepath.Join(certificates, "certificate.pem"), filepath.Join(certificates, "key.pem"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(certificates, "roots.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no roots in %s", certificates)
	}
	return credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}}), nil
}

func dialXDS(lab *lab, certificates string) (*grpc.ClientConn, error) {
	text, err := json.Marshal(bootstrap(lab, certificates))
	if err != nil {
		return nil, err
	}
	resolver, err := xds.NewXDSResolverWithConfigForTesting(text)
	if err != nil {
		return nil, err
	}
	security, err := xdscreds.NewClientCredentials(
		xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("xds:///"+lab.Service,
		grpc.WithResolvers(resolver), grpc.WithTransportCredentials(security))
}

func bootstrap(lab *lab, certificates string) map[string]any {
	content := map[string]any{
		"xds_servers": []any{map[string]any{
			"server_uri":      lab.Control,
			"channel_creds":   []any{map[string]any{"type": "insecure"}},
			"server_features": []any{"xds_v3"},
		}},
		"node": map[string]any{"id": "bench-grpc-go", "cluster": lab.Node},
	}
	if certificates != "" {
		file := func(name string) string { return filepath.Join(certificates, name) }
		content["certificate_providers"] = map[string]any{"default": map[string]any{
			"plugin_name": "file_watcher",
			"config": map[string]any{
				"certificate_file":    file("certificate.pem"),
				"private_key_file":    file("key.pem"),
				"ca_certificate_file": file("roots.pem"),
				"refresh_interval":    "600s",
			},
		}}
	}
	return content
}
