// The builder of Go handlers: reads a package, adds what makes it a handler of the processor, and has it compiled.
//
// Nothing is written into the function's folder. What is added lies in a folder of its own that the compiler sees
// through an overlay, so the function's own go.mod, vendor folder and import paths stay in force.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const usage = `usage: build DIR -o FILE [--form library|executable] [--handler NAME] [-- GO BUILD FLAGS]

Builds the package in DIR, written for nuclio-sdk-go, into FILE.

  --form library     a shared library that the processor calls in its own process (default; needs a C compiler and glibc)
  --form executable  a static program that the processor starts for each worker; runs on any base image
  --handler NAME     the function that must be there, as in spec.handler (main:Handler or Handler)

Environment: NUCLIO_GO_PROXY is used as GOPROXY; NUCLIO_BUILD_OFFLINE=true takes modules from the cache alone.
A vendor folder is used. Without a go.mod one is made up, with the SDK in it; DIR is not written to.
`

// options are what the command line asks for.
type options struct {
	folder, out, handler string
	library              bool
	flags                []string
	// Where the adapter is, and where files may be made.
	home, work string
}

func main() {
	options, err := parse(os.Args[1:])
	if err == nil {
		err = compile(options)
	}
	var failed *exec.ExitError
	switch {
	case err == nil:
	case errors.Is(err, errHelp):
		fmt.Print(usage)
	case errors.As(err, &failed):
		os.Exit(failed.ExitCode()) // The compiler has said all, and has the last word.
	default:
		fmt.Fprintf(os.Stderr, "build: %s\n", err)
		os.Exit(1)
	}
}

var errHelp = errors.New("help")

func parse(arguments []string) (options, error) {
	result := options{library: true}
	for len(arguments) > 0 {
		argument := arguments[0]
		arguments = arguments[1:]
		name, value, joined := strings.Cut(argument, "=")
		take := func() (string, error) {
			if joined {
				return value, nil
			}
			if len(arguments) == 0 {
				return "", fmt.Errorf("%s needs a value (see --help)", name)
			}
			value := arguments[0]
			arguments = arguments[1:]
			return value, nil
		}
		var err error
		switch name {
		case "-h", "--help":
			return result, errHelp
		case "--":
			result.flags, arguments = arguments, nil
		case "-o", "--output":
			result.out, err = take()
		case "--handler":
			result.handler, err = take()
		case "--home":
			result.home, err = take()
		case "--work":
			result.work, err = take()
		case "--form":
			var form string
			form, err = take()
			if err == nil && form != "library" && form != "executable" {
				err = fmt.Errorf("--form is %q: use library or executable", form)
			}
			result.library = form == "library"
		default:
			if strings.HasPrefix(argument, "-") || result.folder != "" {
				return result, fmt.Errorf("unknown argument %q (see --help)", argument)
			}
			result.folder = argument
		}
		if err != nil {
			return result, err
		}
	}
	if result.folder == "" || result.out == "" {
		return result, errors.New("give the folder of the function and -o FILE (see --help)")
	}
	return result, result.resolve()
}

// resolve makes paths absolute and sees that they can be used.
func (o *options) resolve() error {
	info, err := os.Stat(o.folder)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		o.folder = filepath.Dir(o.folder)
	}
	for _, path := range []*string{&o.folder, &o.out, &o.home, &o.work} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	// Symbolic links on the way would make two names of one folder.
	o.folder, err = filepath.EvalSymlinks(o.folder)
	return err
}

// compile builds into a file beside the wanted one, which is replaced only by a whole one.
func compile(options options) error {
	source, err := readPackage(options.folder, options.library)
	if err != nil {
		return err
	}
	if err := source.check(options.handler); err != nil {
		return err
	}
	place, err := findModule(options)
	if err != nil {
		return err
	}
	overlay, err := makeOverlay(options, source, place)
	if err != nil {
		return err
	}
	unfinished := options.out + ".unfinished"
	defer os.Remove(unfinished)
	arguments := append([]string{"build", "-buildvcs=false", "-trimpath", "-overlay", overlay}, place.flags...)
	if options.library {
		arguments = append(arguments, "-buildmode=c-shared")
	}
	arguments = append(append(arguments, options.flags...), "-o", unfinished, ".")
	command := goCommand(options, arguments...)
	if err := command.Run(); err != nil {
		return err
	}
	// What the compiler writes for C programs that link the library.
	os.Remove(strings.TrimSuffix(unfinished, filepath.Ext(unfinished)) + ".h")
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return err
	}
	return os.Rename(unfinished, options.out)
}

// goCommand is a call of Go in the function's folder, whose words go to standard error.
func goCommand(options options, arguments ...string) *exec.Cmd {
	command := exec.Command("go", arguments...)
	command.Dir = options.folder
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	command.Env = append(os.Environ(), "PWD="+options.folder, "GO111MODULE=on")
	set := func(name, value string) { command.Env = append(command.Env, name+"="+value) }
	switch {
	case options.library:
		set("CGO_ENABLED", "1")
	case os.Getenv("CGO_ENABLED") == "":
		set("CGO_ENABLED", "0")
	}
	if proxy := os.Getenv("NUCLIO_GO_PROXY"); proxy != "" {
		set("GOPROXY", proxy)
	}
	if os.Getenv("NUCLIO_BUILD_OFFLINE") == "true" {
		set("GOPROXY", "off")
	}
	// Sums of modules that the function's go.sum lacks would be asked for over the network.
	if os.Getenv("NUCLIO_BUILD_OFFLINE") == "true" || os.Getenv("GOPROXY") == "off" {
		set("GOSUMDB", "off")
	}
	return command
}
