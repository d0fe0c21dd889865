package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// The function's package, as far as it matters here.
type sourcePackage struct {
	exported, unexported []string
	// Exported functions that look like handlers.
	handlers []string
	// Files with a `main` of their own, and where its name begins.
	mains map[string]int
	// Names of the package's own, which what is generated must not use.
	names map[string]bool
}

// readPackage parses the files that the build will compile.
func readPackage(folder string, library bool) (*sourcePackage, error) {
	context := build.Default
	context.CgoEnabled = library || os.Getenv("CGO_ENABLED") == "1"
	found, err := context.ImportDir(folder, 0)
	var noGo *build.NoGoError
	if errors.As(err, &noGo) {
		return nil, fmt.Errorf("there are no Go files in %s; name the folder of the function", folder)
	}
	var several *build.MultiplePackageError
	if err != nil && !errors.As(err, &several) && len(found.GoFiles) == 0 {
		return nil, err
	}
	result := &sourcePackage{mains: map[string]int{}, names: map[string]bool{}}
	for _, name := range append(append([]string{}, found.GoFiles...), found.CgoFiles...) {
		path := filepath.Join(folder, name)
		files := token.NewFileSet()
		// What is wrong in a file is the compiler's to say.
		file, _ := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if file == nil || file.Name == nil {
			continue
		}
		if file.Name.Name != "main" {
			return nil, fmt.Errorf("%s is of package %s; a function is of package main", path, file.Name.Name)
		}
		for _, declaration := range file.Decls {
			if function, is := declaration.(*ast.FuncDecl); is {
				result.add(path, files, function)
			}
		}
	}
	sort.Strings(result.exported)
	sort.Strings(result.unexported)
	return result, nil
}

func (p *sourcePackage) add(path string, files *token.FileSet, function *ast.FuncDecl) {
	name := function.Name.Name
	if function.Recv != nil || name == "init" || name == "_" {
		return
	}
	p.names[name] = true
	switch {
	case name == "main":
		p.mains[path] = files.Position(function.Name.Pos()).Offset
	case function.Type.TypeParams != nil: // No value.
	case !function.Name.IsExported():
		p.unexported = append(p.unexported, name)
	default:
		p.exported = append(p.exported, name)
		if looksLikeHandler(function.Type) {
			p.handlers = append(p.handlers, name)
		}
	}
}

// looksLikeHandler: two parameters that are a Context and an Event, two results.
func looksLikeHandler(function *ast.FuncType) bool {
	var kinds []string
	for _, field := range function.Params.List {
		for count := max(len(field.Names), 1); count > 0; count-- {
			kinds = append(kinds, typeName(field.Type))
		}
	}
	if len(kinds) != 2 || !strings.HasSuffix(kinds[0], "Context") || !strings.HasSuffix(kinds[1], "Event") {
		return false
	}
	return function.Results.NumFields() == 2
}

func typeName(expression ast.Expr) string {
	switch typed := expression.(type) {
	case *ast.StarExpr:
		return typeName(typed.X)
	case *ast.SelectorExpr:
		return typed.Sel.Name
	case *ast.Ident:
		return typed.Name
	}
	return ""
}

// check says before the compiler runs that the handler will not be found, and otherwise warns.
func (p *sourcePackage) check(setting string) error {
	parts := strings.Split(setting, ":")
	if len(parts) > 2 {
		return fmt.Errorf("Invalid handler name %s: write package:Name or Name", setting)
	}
	wanted := parts[len(parts)-1]
	if wanted == "" {
		if len(p.handlers) == 0 {
			fmt.Fprintln(os.Stderr, "build: warning: no exported function looks like a handler, "+
				"func(*nuclio.Context, nuclio.Event) (interface{}, error); the processor will not start it")
		}
		return nil
	}
	switch {
	case contains(p.exported, wanted):
		return nil
	case contains(p.unexported, wanted):
		return fmt.Errorf("Can't find handler %q: the function is there but not exported; rename it to %s", wanted,
			strings.ToUpper(wanted[:1])+wanted[1:])
	case len(p.handlers) > 0:
		return fmt.Errorf("Can't find handler %q: the package has %s", wanted, strings.Join(p.handlers, ", "))
	}
	return fmt.Errorf("Can't find handler %q: the package has no exported function that looks like one", wanted)
}

func contains(list []string, wanted string) bool {
	for _, one := range list {
		if one == wanted {
			return true
		}
	}
	return false
}
