package io.nuclio.processor;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.io.StringWriter;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/** Compiles one source file, and what it uses from its folder, into memory. Where there is a JDK. */
final class SourceCompiler {
    private final Map<String, byte[]> classes = new HashMap<>();

    private SourceCompiler() {
    }

    static SourceCompiler compile(Path source, List<Path> jars) throws LoadException {
        JavaCompiler compiler = compiler();
        if (compiler == null) {
            throw new LoadException(source + " is source and this Java has no compiler; use a JDK, or give a jar");
        }
        SourceCompiler result = new SourceCompiler();
        StringWriter said = new StringWriter();
        String classPath = Stream.concat(Stream.of(HandlerLoader.ownPath()), jars.stream())
            .map(Path::toString).collect(Collectors.joining(File.pathSeparator));
        List<String> options = List.of(
            "-g", "-proc:none", "-classpath", classPath, "-sourcepath", source.toAbsolutePath().getParent().toString());
        try (StandardJavaFileManager files = compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
            var task = compiler.getTask(
                said, result.new Memory(files), null, options, null, files.getJavaFileObjects(source));
            if (!task.call()) {
                throw new LoadException(source + " cannot be compiled:\n" + said);
            }
        } catch (IOException | IllegalStateException error) {
            throw new LoadException(source + " cannot be compiled: " + error);
        }
        return result;
    }

    private static JavaCompiler compiler() {
        try {
            return ToolProvider.getSystemJavaCompiler();
        } catch (LinkageError noSuchModule) {
            return null;
        }
    }

    ClassLoader loader() {
        return new ClassLoader("handler", HandlerLoader.class.getClassLoader()) {
            @Override
            protected Class<?> findClass(String name) throws ClassNotFoundException {
                byte[] code = classes.get(name);
                if (code == null) {
                    throw new ClassNotFoundException(name);
                }
                return defineClass(name, code, 0, code.length);
            }
        };
    }

    /** All classes, by their full names. */
    Set<String> names() {
        return classes.keySet();
    }

    /** The compiled class of that name, whatever its package is. */
    String fullName(String name) {
        if (classes.containsKey(name)) {
            return name;
        }
        return classes.keySet().stream().filter(known -> known.endsWith("." + name)).findFirst().orElse(name);
    }

    /** Keeps what the compiler writes. */
    private final class Memory extends ForwardingJavaFileManager<JavaFileManager> {
        Memory(JavaFileManager files) {
            super(files);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(
                Location location, String name, JavaFileObject.Kind kind, FileObject sibling) {
            return new SimpleJavaFileObject(URI.create("memory:///" + name.replace('.', '/') + kind.extension), kind) {
                @Override
                public OutputStream openOutputStream() {
                    return new ByteArrayOutputStream() {
                        @Override
                        public void close() {
                            classes.put(name, toByteArray());
                        }
                    };
                }
            };
        }
    }
}
