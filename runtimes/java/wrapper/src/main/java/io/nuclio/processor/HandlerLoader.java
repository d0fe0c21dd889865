package io.nuclio.processor;

import io.nuclio.EventHandler;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Modifier;
import java.net.MalformedURLException;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.jar.JarFile;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Finds the handler's class: in the jar the shim itself is in, which is what images are made of, then in the folder of
 * handlers: its classes and its jars. That "folder" may also be one jar, or one source file.
 */
final class HandlerLoader {
    /** Files of a folder that are looked at to name handlers in a message. */
    private static final int LOOKS_MAX = 20_000;
    /** What the file of a class that is a handler holds: its method's types. */
    private static final byte[] SDK = "io/nuclio/".getBytes(StandardCharsets.US_ASCII);

    private final Path place;
    private final List<Path> classPath = new ArrayList<>();
    /** Classes of a source file. */
    private Set<String> compiled = Set.of();
    /** Places that cannot be looked into, and why. */
    private final Set<String> unreadable = new TreeSet<>();
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
            SourceCompiler source = SourceCompiler.compile(place, jarsIn(place.toAbsolutePath().getParent()));
            loader = source.loader();
            compiled = source.names();
            return name.isEmpty() ? name : source.fullName(name);
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
        return "in " + (compiled.isEmpty() ? ownPath() : place) + classPath.stream().map(path -> ", " + path).collect(Collectors.joining());
    }

    private String handlersText() {
        Set<String> found = handlers();
        String text = found.isEmpty()
            ? "no class there implements io.nuclio.EventHandler"
            : "these implement io.nuclio.EventHandler: " + String.join(", ", found);
        return unreadable.isEmpty() ? text : text + "; these cannot be read: " + String.join(", ", unreadable);
    }

    /** Classes that could be meant. */
    private Set<String> handlers() {
        List<Path> places = new ArrayList<>(classPath);
        places.add(ownPath());
        return Stream.concat(compiled.stream(), places.stream().flatMap(path -> classesIn(path).stream()))
            .filter(this::isHandler).collect(Collectors.toCollection(TreeSet::new));
    }

    private boolean isHandler(String name) {
        try {
            Class<?> type = Class.forName(name, false, loader);
            return EventHandler.class.isAssignableFrom(type) && !Modifier.isAbstract(type.getModifiers());
        } catch (Throwable error) {
            return false; // Whatever is wrong with it, it is not the one.
        }
    }

    /** Those that know the SDK: loading all of a large jar would take long. */
    private List<String> classesIn(Path path) {
        try {
            if (Files.isDirectory(path)) {
                try (Stream<Path> files = Files.walk(path, 20)) {
                    return files.limit(LOOKS_MAX).filter(file -> isClass(path.relativize(file).toString()))
                        .filter(file -> knowsTheSdk(() -> Files.newInputStream(file)))
                        .map(file -> className(path.relativize(file).toString())).collect(Collectors.toList());
                }
            }
            try (JarFile jar = new JarFile(path.toFile())) {
                return jar.stream().filter(entry -> isClass(entry.getName()))
                    .filter(entry -> knowsTheSdk(() -> jar.getInputStream(entry)))
                    .map(entry -> className(entry.getName())).collect(Collectors.toList());
            }
        } catch (IOException | RuntimeException error) {
            unreadable.add(path + " (" + error.getMessage() + ")");
            return List.of();
        }
    }

    private static boolean isClass(String file) {
        return file.endsWith(".class") && file.indexOf('$') < 0 && file.indexOf('-') < 0 && !file.startsWith("io/nuclio/");
    }

    private static String className(String file) {
        return file.substring(0, file.length() - ".class".length()).replace('/', '.');
    }

    private static boolean knowsTheSdk(Callable<InputStream> file) {
        try (InputStream in = file.call()) {
            byte[] code = in.readAllBytes();
            for (int at = 0; at + SDK.length <= code.length; at++) {
                if (Arrays.equals(code, at, at + SDK.length, SDK, 0, SDK.length)) {
                    return true;
                }
            }
            return false;
        } catch (Exception error) {
            return false; // As good as one that cannot be loaded.
        }
    }
}
