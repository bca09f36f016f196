package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"
)

// readResources reads a file, or those of a folder in the order of their names: resources by type
// URL and name. Of two with one name the later one counts.
func readResources(path string) (map[string]map[string]types.Resource, error) {
	files, err := resourceFiles(path)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]types.Resource{}
	for _, file := range files {
		if err := readFile(file, all); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, nil
}

func resourceFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(entry.Name())) {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	return files, nil
}

func readFile(file string, all map[string]map[string]types.Resource) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(file, ".json") {
		if text, err = yaml.YAMLToJSON(text); err != nil {
			return err
		}
	}
	var content struct {
		Resources []json.RawMessage `json:"resources"`
	}
	if err := json.Unmarshal(text, &content); err != nil {
		return err
	}
	for at, entry := range content.Resources {
		if err := readResource(entry, all); err != nil {
			return fmt.Errorf("resource %d: %w", at, err)
		}
	}
	return nil
}

func readResource(text []byte, all map[string]map[string]types.Resource) error {
	var packed anypb.Any
	if err := protojson.Unmarshal(text, &packed); err != nil {
		return err
	}
	message, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	name := cache.GetResourceName(message)
	if name == "" {
		return fmt.Errorf("a %s without a name", last(packed.GetTypeUrl()))
	}
	if all[packed.GetTypeUrl()] == nil {
		all[packed.GetTypeUrl()] = map[string]types.Resource{}
	}
	all[packed.GetTypeUrl()][name] = message
	return nil
}
