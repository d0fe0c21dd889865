package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Names in the function's folder that no function has: the adapter's package, and the file that is generated.
const (
	adapterFolder = "nuclio_processor_adapter"
	generatedFile = "nuclio_processor_main.go"
	libraryFile   = "nuclio_processor_library"
	// What a `main` of the function's own is called; nothing calls it.
	otherMain = "nuclioUnusedMain"
)

var (
	commonFiles     = []string{"doc.go", "handlers.go", "call.go", "event.go", "logger.go", "stream.go"}
	libraryFiles    = []string{"library.go", "raw.go"}
	executableFiles = []string{"shim.go", "frames.go", "values.go"}
)

// makeOverlay writes what is added to the package, and the list that tells the compiler where it is.
func makeOverlay(options options, source *sourcePackage, place module) (string, error) {
	replace := map[string]string{}
	for name, file := range place.files {
		replace[name] = file
	}
	adapter := func(name string) string { return filepath.Join(options.folder, adapterFolder, name) }
	added := executableFiles
	if options.library {
		added = libraryFiles
		if err := addLibrary(options, place, replace); err != nil {
			return "", err
		}
	}
	for _, name := range append(append([]string{}, commonFiles...), added...) {
		replace[adapter(name)] = filepath.Join(options.home, "adapter", name)
	}
	generated := filepath.Join(options.work, generatedFile)
	if err := os.WriteFile(generated, []byte(generate(options, source, place)), 0o644); err != nil {
		return "", err
	}
	replace[filepath.Join(options.folder, generatedFile)] = generated
	for path, offset := range source.mains {
		renamed := filepath.Join(options.work, "renamed-"+filepath.Base(path))
		if err := renameMain(path, offset, renamed); err != nil {
			return "", err
		}
		replace[path] = renamed
	}
	text, err := json.Marshal(map[string]interface{}{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(options.work, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o644)
}

// addLibrary puts the C side into the function's own package: C is compiled in folders that there are, only.
func addLibrary(options options, place module, replace map[string]string) error {
	text, err := os.ReadFile(filepath.Join(options.home, "library", "library.go"))
	if err != nil {
		return err
	}
	ours := strings.NewReplacer("\npackage library\n", "\npackage main\n",
		`"nuclio-processor/golang/adapter"`, fmt.Sprintf("%q", place.path+"/"+adapterFolder))
	made := filepath.Join(options.work, libraryFile+".go")
	if err := os.WriteFile(made, []byte(ours.Replace(string(text))), 0o644); err != nil {
		return err
	}
	replace[filepath.Join(options.folder, libraryFile+".go")] = made
	replace[filepath.Join(options.folder, libraryFile+".c")] = filepath.Join(options.home, "library", "library.c")
	replace[filepath.Join(options.folder, "nuclio_handler.h")] = headerFile(options)
	return nil
}

// headerFile is beside this package in the sources, and may be put into it in images.
func headerFile(options options) string {
	inside := filepath.Join(options.home, "library", "nuclio_handler.h")
	if _, err := os.Stat(inside); err == nil {
		return inside
	}
	return filepath.Join(options.home, "..", "rust", "include", "nuclio_handler.h")
}

func renameMain(path string, offset int, to string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(text[offset:]), "main") {
		return fmt.Errorf("%s has changed while it was read", path)
	}
	renamed := string(text[:offset]) + otherMain + string(text[offset+len("main"):])
	return os.WriteFile(to, []byte(renamed), 0o644)
}

// generate writes the file that makes the package's functions known.
func generate(options options, source *sourcePackage, place module) string {
	var text strings.Builder
	fmt.Fprintf(&text, "// Generated: the function's way to the processor.\npackage main\n\n")
	fmt.Fprintf(&text, "import nuclioProcessorAdapter %q\n\nfunc init() {\n", place.path+"/"+adapterFolder)
	for _, name := range source.exported {
		fmt.Fprintf(&text, "\tnuclioProcessorAdapter.Register(%q, %s)\n", name, name)
	}
	for _, name := range source.unexported {
		fmt.Fprintf(&text, "\tnuclioProcessorAdapter.Unexported(%q)\n", name)
	}
	body := "nuclioProcessorAdapter.Main()"
	if options.library {
		body = "" // Never called.
	}
	fmt.Fprintf(&text, "}\n\nfunc main() { %s }\n", body)
	return text.String()
}
