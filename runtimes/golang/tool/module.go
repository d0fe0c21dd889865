package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const sdkModule = "github.com/nuclio/nuclio-sdk-go"

// module is where the function's package belongs, and how Go is told to find what it imports.
type module struct {
	// Import path of the function's package.
	path string
	// For go build.
	flags []string
	// Files that are there for the compiler only.
	files map[string]string
}

// findModule looks at the module the function is in, or makes one up.
func findModule(options options) (module, error) {
	values, err := goEnv(options, "GOMOD", "GOWORK")
	if err != nil {
		return module{}, err
	}
	file, workspace := values["GOMOD"], values["GOWORK"]
	if file == "" || file == os.DevNull {
		return makeModule(options)
	}
	root := filepath.Dir(file)
	var parsed struct {
		Module  struct{ Path string }
		Require []struct{ Path string }
	}
	output, err := output(options, "mod", "edit", "-json", file)
	if err != nil {
		return module{}, err
	}
	if err := json.Unmarshal(output, &parsed); err != nil {
		return module{}, err
	}
	inside, err := filepath.Rel(root, options.folder)
	if err != nil {
		return module{}, err
	}
	result := module{path: parsed.Module.Path, files: map[string]string{}}
	if inside != "." {
		result.path += "/" + filepath.ToSlash(inside)
	}
	if workspace != "" && workspace != "off" {
		return result, nil // The workspace says what is used.
	}
	if _, err := os.Stat(filepath.Join(root, "vendor", "modules.txt")); err == nil {
		result.flags = []string{"-mod=vendor"}
		return result, nil
	}
	hasSDK := false
	for _, required := range parsed.Require {
		hasSDK = hasSDK || required.Path == sdkModule
	}
	return result, result.useCopy(options, file, hasSDK)
}

// makeModule is for functions without a go.mod: one that requires the SDK, and what else is imported in its newest
// version.
func makeModule(options options) (module, error) {
	result := module{path: "handler", files: map[string]string{}}
	made := filepath.Join(options.work, "made.mod")
	if err := os.WriteFile(made, []byte("module handler\n\ngo 1.21\n"), 0o644); err != nil {
		return result, err
	}
	// Go looks for the file to know where the module begins.
	result.files[filepath.Join(options.folder, "go.mod")] = made
	return result, result.useCopy(options, made, false)
}

// useCopy has Go complete a copy of go.mod and go.sum instead of the function's own. The SDK's sums are known, so that
// its modules need no network once they are in the cache.
func (m *module) useCopy(options options, file string, hasSDK bool) error {
	mod, sum := filepath.Join(options.work, "go.mod"), filepath.Join(options.work, "go.sum")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(mod, text, 0o644); err != nil {
		return err
	}
	if !hasSDK {
		if err := requireSDK(options, mod); err != nil {
			return err
		}
	}
	sums, err := os.ReadFile(filepath.Join(options.home, "go.sum"))
	if err != nil {
		return err
	}
	if own, err := os.ReadFile(strings.TrimSuffix(file, ".mod") + ".sum"); err == nil {
		sums = append(append(bytes.TrimRight(own, "\n"), '\n'), sums...)
	}
	m.flags = []string{"-mod=mod", "-modfile=" + mod}
	return os.WriteFile(sum, sums, 0o644)
}

// requireSDK adds the SDK in the version that the adapter is made for, and what that needs.
func requireSDK(options options, mod string) error {
	var ours struct {
		Require []struct{ Path, Version string }
	}
	output, err := output(options, "mod", "edit", "-json", filepath.Join(options.home, "go.mod"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(output, &ours); err != nil {
		return err
	}
	arguments := []string{"mod", "edit"}
	for _, required := range ours.Require {
		if required.Path == sdkModule {
			arguments = append(arguments, fmt.Sprintf("-require=%s@%s", required.Path, required.Version))
		}
	}
	return goCommand(options, append(arguments, mod)...).Run()
}

func goEnv(options options, names ...string) (map[string]string, error) {
	text, err := output(options, append([]string{"env", "-json"}, names...)...)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	return values, json.Unmarshal(text, &values)
}

func output(options options, arguments ...string) ([]byte, error) {
	command := goCommand(options, arguments...)
	command.Stdout = nil
	return command.Output()
}
