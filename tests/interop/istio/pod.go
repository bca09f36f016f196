package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	meshapi "istio.io/api/mesh/v1alpha1"
	istiobootstrap "istio.io/istio/pkg/bootstrap"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/istio-agent/grpcxds"
	"istio.io/istio/pkg/security"
	"istio.io/istio/pkg/util/protomarshal"
	"istio.io/istio/security/pkg/nodeagent/sds"
)

// bootstrap writes what Istio's agent writes for a pod, with its own code: for gRPC its whole file,
// for Envoy (`--generator ""`) the node alone, because the rest of that file is a template of an
// installation.
func bootstrap(args []string) {
	flags := flag.NewFlagSet("bootstrap", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address of the pod")
	pod := flags.String("pod", "", "name of the pod")
	namespace := flags.String("namespace", "default", "its namespace")
	account := flags.String("service-account", "default", "its service account")
	generator := flags.String("generator", "grpc", "kind of configuration; empty: Envoy's")
	socket := flags.String("unix", "", "the agent's socket")
	address := flags.String("discovery", "", "the discovery server's address, where no agent is between")
	certificates := flags.String("certificates", "", "folder of key.pem, cert-chain.pem, root-cert.pem")
	out := flags.String("out", "", "the file to write")
	var labels, meta list
	flags.Var(&labels, "label", "k=v (may be repeated)")
	flags.Var(&meta, "meta", "K=v of the node's metadata (may be repeated)")
	check(flags.Parse(args))

	environment := []string{
		"POD_NAME=" + *pod, "POD_NAMESPACE=" + *namespace, "SERVICE_ACCOUNT=" + *account,
		"ISTIO_METAJSON_LABELS=" + jsonObject(labels),
	}
	for _, one := range meta {
		environment = append(environment, "ISTIO_META_"+one)
	}
	id := fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", *ip, *pod, *namespace, *namespace)
	node, err := istiobootstrap.GetNodeMetaData(istiobootstrap.MetadataOptions{
		ID:          id,
		Envs:        environment,
		InstanceIPs: []string{*ip},
		ProxyConfig: mesh.DefaultProxyConfig(),
	})
	check(err)
	node.Metadata.Generator = *generator
	options := grpcxds.GenerateBootstrapOptions{
		Node:             node,
		XdsUdsPath:       *socket,
		DiscoveryAddress: *address,
		CertDir:          *certificates,
	}
	if *generator == "" {
		written, err := grpcxds.GenerateBootstrap(options)
		check(err)
		text, err := protomarshal.Marshal(written.Node)
		check(err)
		check(os.WriteFile(*out, text, 0o600))
	} else {
		_, err = grpcxds.GenerateBootstrapFile(options, *out)
		check(err)
	}
	say("written", map[string]any{"node": id, "path": *out})
}

func jsonObject(pairs []string) string {
	var fields []string
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		fields = append(fields, fmt.Sprintf("%q:%q", name, value))
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// secrets is the agent's SDS server for Envoy, over certificates in files. Its socket has a path
// below the working directory, as everywhere in Istio.
func secrets(args []string) {
	flags := flag.NewFlagSet("secrets", flag.ExitOnError)
	folder := flags.String("certificates", "", "folder of key.pem, cert-chain.pem, root-cert.pem")
	check(flags.Parse(args))
	path := security.GetIstioSDSServerSocketPath()
	check(os.MkdirAll(filepath.Dir(path), 0o700))
	server := sds.NewServer(&security.Options{}, files(*folder), (*meshapi.PrivateKeyProvider)(nil))
	absolute, err := filepath.Abs(path)
	check(err)
	say("ready", map[string]any{"addr": "unix:" + absolute})
	untilTold(func() {
		server.OnSecretUpdate(security.WorkloadKeyCertResourceName)
		server.OnSecretUpdate(security.RootCertReqResourceName)
	})
	server.Stop()
}

// files answers with the certificates of a folder, read each time.
type files string

func (f files) GenerateSecret(name string) (*security.SecretItem, error) {
	item := &security.SecretItem{ResourceName: name, CreatedTime: time.Now()}
	var err error
	read := func(file string) []byte {
		bytes, failed := os.ReadFile(filepath.Join(string(f), file))
		if failed != nil {
			err = failed
		}
		return bytes
	}
	if name == security.RootCertReqResourceName {
		item.RootCert = read("root-cert.pem")
	} else {
		item.CertificateChain, item.PrivateKey = read("cert-chain.pem"), read("key.pem")
	}
	return item, err
}
