package nuclioadapter

import (
	"fmt"
	"sort"
	"strings"

	nuclio "github.com/nuclio/nuclio-sdk-go"
)

type handlerFunction = func(*nuclio.Context, nuclio.Event) (interface{}, error)
type initFunction = func(*nuclio.Context) error

const (
	defaultHandler = "Handler"
	initContext    = "InitContext"
)

// What the function's package holds: filled in by its init functions, read afterwards.
var (
	functions  = map[string]interface{}{}
	unexported = map[string]bool{}
)

// Register makes an exported function of the package known by its name. The generated file calls it for each of them.
func Register(name string, function interface{}) {
	functions[name] = function
}

// Unexported notes a function that cannot be the handler, for the message to whoever asks for it.
func Unexported(names ...string) {
	for _, name := range names {
		unexported[name] = true
	}
}

// entry is what a worker needs of the function's package.
type entry struct {
	handler handlerFunction
	init    initFunction
}

// findEntry resolves spec.handler: `package:Name`, `Name`, or nothing for the handler named Handler or, without one,
// for the only one.
func findEntry(setting string) (entry, error) {
	name, err := handlerName(setting)
	if err != nil {
		return entry{}, err
	}
	function, found := functions[name]
	if !found {
		return entry{}, fmt.Errorf("Can't find handler \"%s\": %s", name, whatThereIs(name))
	}
	handler, fits := function.(handlerFunction)
	if !fits {
		return entry{}, fmt.Errorf("handler %s is of wrong type - %T, wanted %T", name, function, handler)
	}
	result := entry{handler: handler}
	if function, found := functions[initContext]; found {
		if result.init, fits = function.(initFunction); !fits {
			return entry{}, fmt.Errorf("%s is of wrong type - %T, wanted %T", initContext, function, result.init)
		}
	}
	return result, nil
}

func handlerName(setting string) (string, error) {
	parts := strings.Split(setting, ":")
	if len(parts) > 2 {
		return "", fmt.Errorf("Invalid handler name %s: write package:Name or Name", setting)
	}
	if name := parts[len(parts)-1]; name != "" {
		return name, nil
	}
	if fitting := fittingNames(); len(fitting) == 1 {
		return fitting[0], nil
	}
	return defaultHandler, nil
}

// fittingNames are those of the functions that can be a handler.
func fittingNames() []string {
	var names []string
	for name, function := range functions {
		if _, fits := function.(handlerFunction); fits {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func whatThereIs(wanted string) string {
	if unexported[wanted] {
		return fmt.Sprintf("the function is there but not exported; rename it to %s, there and in spec.handler",
			strings.ToUpper(wanted[:1])+wanted[1:])
	}
	if fitting := fittingNames(); len(fitting) > 0 {
		return "the package has " + strings.Join(fitting, ", ") + "; correct spec.handler"
	}
	return "the package has no exported function of type func(*nuclio.Context, nuclio.Event) (interface{}, error)"
}
