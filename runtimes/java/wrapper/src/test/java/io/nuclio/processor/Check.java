package io.nuclio.processor;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Objects;

/** Runs tests: methods without arguments of these classes. The last line is {@code N passed, N failed}. */
public final class Check {
    private Check() {
    }

    static void that(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object expected, Object found) {
        that(Objects.deepEquals(expected, found), "expected " + expected + ", found " + found);
    }

    /** The program. */
    public static void main(String[] arguments) throws ReflectiveOperationException {
        int passed = 0;
        int failed = 0;
        for (Class<?> tests : new Class<?>[] {SessionTest.class, LineSessionTest.class, JsonTest.class}) {
            Method[] methods = tests.getDeclaredMethods();
            Arrays.sort(methods, Comparator.comparing(Method::getName));
            for (Method method : methods) {
                boolean isTest = method.getParameterCount() == 0 && !Modifier.isStatic(method.getModifiers());
                if (method.isSynthetic() || !isTest) {
                    continue;
                }
                try {
                    method.invoke(tests.getDeclaredConstructor().newInstance());
                    passed++;
                    System.out.println("ok      " + tests.getSimpleName() + "." + method.getName());
                } catch (InvocationTargetException error) {
                    failed++;
                    System.out.println("FAILED  " + tests.getSimpleName() + "." + method.getName());
                    error.getCause().printStackTrace(System.out);
                }
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 && passed > 0 ? 0 : 1);
    }
}
