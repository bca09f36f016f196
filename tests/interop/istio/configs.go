package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pkg/config"
)

// configs are Istio's objects by kind, namespace and name.
type configs map[string]config.Config

func key(c config.Config) string {
	return fmt.Sprintf("%s/%s/%s", c.GroupVersionKind.Kind, c.Namespace, c.Name)
}

// readConfigs reads a file, or the YAML files of a folder in the order of their names. Istio's own
// validation judges them; kinds that it does not know are an error.
func readConfigs(path string) (configs, error) {
	found := configs{}
	if path == "" {
		return found, nil
	}
	files, err := yamlFiles(path)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objects, unknown, err := crd.ParseInputs(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if len(unknown) > 0 {
			return nil, fmt.Errorf("%s: %s is none of Istio's kinds", file, unknown[0].Kind)
		}
		for _, object := range objects {
			if _, twice := found[key(object)]; twice {
				return nil, fmt.Errorf("%s: %s is there twice", file, key(object))
			}
			found[key(object)] = object
		}
	}
	return found, nil
}

func yamlFiles(path string) ([]string, error) {
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
		if strings.HasSuffix(entry.Name(), ".yaml") || strings.HasSuffix(entry.Name(), ".yml") {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	sort.Strings(files)
	return files, nil
}

// reload brings the store to what is at path, and says how many objects that changed.
func reload(store model.ConfigStore, path string) (int, error) {
	wanted, err := readConfigs(path)
	if err != nil {
		return 0, err
	}
	changed := 0
	for _, schema := range store.Schemas().All() {
		for _, old := range store.List(schema.GroupVersionKind(), model.NamespaceAll) {
			if _, stays := wanted[key(old)]; stays {
				continue
			}
			if err := store.Delete(old.GroupVersionKind, old.Name, old.Namespace, nil); err != nil {
				return changed, fmt.Errorf("%s: %w", key(old), err)
			}
			changed++
		}
	}
	for name, object := range wanted {
		old := store.Get(object.GroupVersionKind, object.Name, object.Namespace)
		if old != nil && reflect.DeepEqual(old.Labels, object.Labels) && same(old.Spec, object.Spec) {
			continue
		}
		if old == nil {
			_, err = store.Create(object)
		} else {
			_, err = store.Update(object)
		}
		if err != nil {
			return changed, fmt.Errorf("%s: %w", name, err)
		}
		changed++
	}
	return changed, nil
}

func same(a, b config.Spec) bool {
	first, err := config.ToJSON(a)
	if err != nil {
		return false
	}
	second, err := config.ToJSON(b)
	return err == nil && string(first) == string(second)
}
