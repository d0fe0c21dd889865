package io.nuclio.processor;

import io.nuclio.EventHandler;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.net.MalformedURLException;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.jar.JarFile;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Finds the handler's class: in the jar the shim itself is in, which is what images are made of, then in the folder of
 * handlers: its classes and its jars. That "folder" may also be one jar, or one source file.
 */
final class HandlerLoader {
    /** Classes that are looked at to name handlers in a message. */
    private static final int LOOKS_MAX = 2000;

    private final Path place;
    private final List<Path> classPath = new ArrayList<>();
    private ClassLoader loader;

    private HandlerLoader(Path place) {
        this.place = place;
    }

    /** The handler's object. {@code setting}: a class, perhaps behind {@code module:}, or nothing for the only one. */
    static EventHandler load(String setting, String folder) throws LoadException {
        HandlerLoader loader = new HandlerLoader(Path.of(folder));
        String name = loader.prepare(setting.substring(setting.indexOf(':') + 1));
        Thread.currentThread().setContextClassLoader(loader.loader);
        return loader.make(name.isEmpty() ? loader.onlyHandler() : name);
    }

    /** Where the shim's own classes are. */
    static Path ownPath() {
        try {
            return Path.of(HandlerLoader.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        } catch (URISyntaxException | RuntimeException odd) {
            return Path.of("");
        }
    }

    /** Makes the class loader; returns the name of the class, with its package where only that was missing. */
    private String prepare(String name) throws LoadException {
        if (place.toString().endsWith(".java") && Files.isRegularFile(place)) {
            SourceCompiler compiled = SourceCompiler.compile(place, jarsIn(place.toAbsolutePath().getParent()));
            loader = compiled.loader();
            return compiled.fullName(name);
        }
        if (Files.isDirectory(place)) {
            classPath.add(place);
            classPath.addAll(jarsIn(place));
        } else if (Files.isRegularFile(place)) {
            classPath.add(place);
        }
        List<URL> urls = new ArrayList<>();
        try {
            for (Path path : classPath) {
                urls.add(path.toUri().toURL());
            }
        } catch (MalformedURLException error) {
            throw new LoadException("cannot look into " + place + ": " + error.getMessage());
        }
        loader = new URLClassLoader("handler", urls.toArray(new URL[0]), HandlerLoader.class.getClassLoader());
        return name;
    }

    /** Other jars than our own. */
    static List<Path> jarsIn(Path folder) throws LoadException {
        Path own = ownPath();
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(file -> file.toString().endsWith(".jar") && Files.isRegularFile(file))
                .filter(file -> !file.toAbsolutePath().normalize().equals(own))
                .sorted().collect(Collectors.toList());
        } catch (IOException error) {
            throw new LoadException("cannot read the folder " + folder + ": " + error);
        }
    }

    private EventHandler make(String name) throws LoadException {
        try {
            Class<?> found = Class.forName(name, true, loader);
            if (!EventHandler.class.isAssignableFrom(found)) {
                throw new LoadException("class " + name + " does not implement io.nuclio.EventHandler");
            }
            var constructor = found.getDeclaredConstructor();
            constructor.setAccessible(true);
            return (EventHandler) constructor.newInstance();
        } catch (ClassNotFoundException error) {
            throw new LoadException("no class \"" + name + "\" " + where() + "; " + handlersText());
        } catch (NoSuchMethodException error) {
            throw new LoadException("class " + name + " has no constructor without arguments");
        } catch (InstantiationException error) {
            throw new LoadException("class " + name + " is abstract");
        } catch (InvocationTargetException error) {
            throw failed("the constructor of " + name + " failed", error.getCause());
        } catch (UnsupportedClassVersionError error) {
            throw new LoadException(
                "class " + name + " is compiled for a newer Java than the one that runs, " + Runtime.version()
                    + "; compile it with --release " + Runtime.version().feature() + ": " + error.getMessage());
        } catch (LoadException error) {
            throw error;
        } catch (ExceptionInInitializerError error) {
            throw failed("class " + name + " failed to initialize", error.getCause() == null ? error : error.getCause());
        } catch (Throwable error) {
            throw failed("class " + name + " cannot be loaded", error);
        }
    }

    private static LoadException failed(String what, Throwable why) {
        return new LoadException(what + ": " + Answer.stack(why));
    }

    private String onlyHandler() throws LoadException {
        Set<String> found = handlers();
        if (found.size() == 1) {
            return found.iterator().next();
        }
        throw new LoadException("the handler is not said and there is not exactly one " + where() + "; " + handlersText());
    }

    private String where() {
        return "in " + ownPath() + classPath.stream().map(path -> ", " + path).collect(Collectors.joining());
    }

    private String handlersText() {
        Set<String> found = handlers();
        return found.isEmpty()
            ? "no class there implements io.nuclio.EventHandler"
            : "these implement io.nuclio.EventHandler: " + String.join(", ", found);
    }

    /** Classes that could be meant. */
    private Set<String> handlers() {
        List<Path> places = new ArrayList<>(classPath);
        places.add(ownPath());
        return places.stream().flatMap(path -> classesIn(path).stream()).limit(LOOKS_MAX).filter(this::isHandler)
            .collect(Collectors.toCollection(TreeSet::new));
    }

    private boolean isHandler(String name) {
        try {
            Class<?> type = Class.forName(name, false, loader);
            return EventHandler.class.isAssignableFrom(type) && !type.isInterface();
        } catch (Throwable error) {
            return false; // Whatever is wrong with it, it is not the one.
        }
    }

    private static List<String> classesIn(Path path) {
        try {
            if (Files.isDirectory(path)) {
                try (Stream<Path> files = Files.walk(path, 20)) {
                    return names(files.map(file -> path.relativize(file).toString()).limit(LOOKS_MAX));
                }
            }
            try (JarFile jar = new JarFile(path.toFile())) {
                return names(jar.stream().map(entry -> entry.getName()));
            }
        } catch (IOException | RuntimeException error) {
            return List.of();
        }
    }

    private static List<String> names(Stream<String> files) {
        return files.filter(name -> name.endsWith(".class") && name.indexOf('$') < 0 && name.indexOf('-') < 0)
            .map(name -> name.substring(0, name.length() - ".class".length()).replace('/', '.'))
            .filter(name -> !name.startsWith("io.nuclio.")).collect(Collectors.toList());
    }
}
