// Finds the user's method and makes a delegate of it.

using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.Loader;
using System.Threading.Tasks;
using Nuclio.Sdk;

namespace Nuclio.Wrapper
{
    /// <summary>The handler cannot be found; the message says all there is to say.</summary>
    internal sealed class LoadException : Exception
    {
        internal LoadException(string message) : base(message)
        {
        }
    }

    internal sealed class Handler
    {
        internal const string DefaultFolder = "/opt/nuclio/handler";
        private const string FileName = "handler.dll";
        private const string FrameworkName = "System.Runtime,"; // which every assembly refers to
        private const string InitName = "InitContext";
        private const BindingFlags Public = BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static;

        private static readonly ConcurrentDictionary<Type, Func<Task, object>> Results =
            new ConcurrentDictionary<Type, Func<Task, object>>();

        /// <summary>What the method returns; a task if it is asynchronous.</summary>
        internal Func<Context, Event, object> Invoke { get; private set; }

        /// <summary>The method says that it is asynchronous: it returns a task.</summary>
        internal bool Asynchronous { get; private set; }

        private Func<Context, object> init;

        /// <summary>
        /// Loads <c>handler.dll</c> of a folder, or the file itself, and finds <c>Class:Method</c> in it. Throws a
        /// <see cref="LoadException"/>, or whatever the user's code does.
        /// </summary>
        internal static Handler Load(string place, string name, Action<string> warn)
        {
            try
            {
                return Find(place, name, warn);
            }
            catch (IOException error) when (MissingFrom(error).StartsWith(FrameworkName, StringComparison.Ordinal))
            {
                throw new LoadException(
                    "the handler is built for a newer .NET than the one that runs, " + Environment.Version + ", which has no \"" +
                    MissingFrom(error) + "\"; build it for this one (TargetFramework, or --framework of the builder), or take a newer base image");
            }
        }

        /// <summary>The assembly that could not be loaded.</summary>
        private static string MissingFrom(IOException error)
        {
            return (error as FileNotFoundException)?.FileName ?? (error as FileLoadException)?.FileName ?? "";
        }

        private static Handler Find(string place, string name, Action<string> warn)
        {
            var parts = (name ?? "").Split(':');
            if (parts.Length != 2 || parts[0] == "" || parts[1] == "")
            {
                throw new LoadException("handler \"" + name + "\" does not have the form Class:Method");
            }
            var type = FindType(LoadAssembly(place), parts[0]);
            var method = FindMethod(type, parts[1]);
            RuntimeHelpers.RunClassConstructor(type.TypeHandle); // What fails there fails the start, not every event.
            var instance = method.IsStatic ? null : New(type, warn);
            var handler = new Handler
            {
                Invoke = Bind<Func<Context, Event, object>>(method, instance, nameof(Values.OfEvent), nameof(Values.OfEventVoid)),
                Asynchronous = IsTask(method.ReturnType),
            };
            var inits = type.GetMember(InitName, MemberTypes.Method, Public).Cast<MethodInfo>().ToList();
            var found = inits.FirstOrDefault(one => Takes(one, typeof(Context)));
            if (found != null)
            {
                if (!found.IsStatic) instance = instance ?? New(type, warn);
                handler.init = Bind<Func<Context, object>>(found, instance, nameof(Values.OfContext), nameof(Values.OfContextVoid));
            }
            else if (inits.Count > 0)
            {
                warn("InitContext is not called: it has to take one Nuclio.Sdk.Context");
            }
            return handler;
        }

        internal void Initialize(Context context)
        {
            if (init?.Invoke(context) is object value && AsTask(value) is Task task) task.GetAwaiter().GetResult();
            context.IsInitialized = true;
        }

        // ---- finding

        private static Assembly LoadAssembly(string place)
        {
            place = string.IsNullOrEmpty(place) ? DefaultFolder : place;
            var file = Path.GetFullPath(File.Exists(place) ? place : Path.Combine(place, FileName));
            if (!File.Exists(file))
            {
                throw new LoadException("no file " + file + "; the handler's project has to be built into an assembly of that name");
            }
            try
            {
                return new Neighbours(file).LoadFromAssemblyPath(file);
            }
            catch (BadImageFormatException error)
            {
                throw new LoadException(file + " is no assembly of .NET: " + error.Message);
            }
        }

        /// <summary>By its full name, or by the name alone where that is unique.</summary>
        private static Type FindType(Assembly assembly, string name)
        {
            var type = assembly.GetType(name);
            if (type != null) return type;
            var all = assembly.GetExportedTypes();
            var same = all.Where(one => one.Name == name).ToList();
            if (same.Count == 1) return same[0];
            var shown = string.Join(", ", (same.Count > 0 ? same : all.ToList()).Select(one => one.FullName).Take(20));
            throw new LoadException(same.Count > 1
                ? "class \"" + name + "\" is ambiguous in " + assembly.Location + ": " + shown
                : "no class \"" + name + "\" in " + assembly.Location + "; its public ones: " + (shown == "" ? "none" : shown));
        }

        private static MethodInfo FindMethod(Type type, string name)
        {
            var named = type.GetMember(name, MemberTypes.Method, Public | BindingFlags.NonPublic).Cast<MethodInfo>().ToList();
            var fit = named.FirstOrDefault(one => one.IsPublic && Takes(one, typeof(Context), typeof(Event)));
            if (fit != null) return fit;
            const string Wanted = "; wanted is a public one that takes (Nuclio.Sdk.Context, Nuclio.Sdk.Event)";
            if (named.Count > 0) throw new LoadException("method " + string.Join(", ", named) + " of " + type.FullName + " does not fit" + Wanted);
            var others = type.GetMethods(Public).Where(one => one.DeclaringType == type).Select(one => one.Name).Distinct();
            throw new LoadException(
                "no method \"" + name + "\" in " + type.FullName + ", which has: " + string.Join(", ", others.DefaultIfEmpty("none")) + Wanted);
        }

        private static bool Takes(MethodInfo method, params Type[] types)
        {
            return !method.ContainsGenericParameters && method.GetParameters().Select(one => one.ParameterType).SequenceEqual(types);
        }

        private static object New(Type type, Action<string> warn)
        {
            if (type.IsAbstract) throw new LoadException("class " + type.FullName + " is abstract, and its method is not static");
            if (type.GetConstructor(Type.EmptyTypes) == null && !type.IsValueType)
            {
                // compat: handlers used to be called without an instance.
                warn("The handler's class has no public constructor without arguments: none is called");
                return RuntimeHelpers.GetUninitializedObject(type);
            }
            try
            {
                return Activator.CreateInstance(type);
            }
            catch (TargetInvocationException error) when (error.InnerException != null)
            {
                ExceptionDispatchInfo.Capture(error.InnerException).Throw();
                throw;
            }
        }

        // ---- binding

        /// <summary>A delegate that returns an object, whatever the method returns.</summary>
        private static T Bind<T>(MethodInfo method, object instance, string ofValue, string ofVoid) where T : Delegate
        {
            var returned = method.ReturnType;
            if (!returned.IsValueType && !returned.IsByRef && !returned.IsPointer)
            {
                return (T)Delegate.CreateDelegate(typeof(T), instance, method);
            }
            if (returned.IsByRef || returned.IsPointer || IsByRefLike(returned))
            {
                throw new LoadException("method " + method + " returns something that cannot be an answer");
            }
            var make = typeof(Values).GetMethod(returned == typeof(void) ? ofVoid : ofValue, BindingFlags.NonPublic | BindingFlags.Static);
            if (returned != typeof(void)) make = make.MakeGenericMethod(returned);
            return (T)make.Invoke(null, new[] { instance, method });
        }

        private static bool IsByRefLike(Type type)
        {
            return type.GetCustomAttributes(false).Any(one => one.GetType().Name == "IsByRefLikeAttribute");
        }

        /// <summary>Methods that return nothing, or a value that has to be boxed.</summary>
        private static class Values
        {
            internal static Func<Context, Event, object> OfEvent<T>(object instance, MethodInfo method)
            {
                var typed = (Func<Context, Event, T>)Delegate.CreateDelegate(typeof(Func<Context, Event, T>), instance, method);
                return (context, @event) => typed(context, @event);
            }

            internal static Func<Context, Event, object> OfEventVoid(object instance, MethodInfo method)
            {
                var typed = (Action<Context, Event>)Delegate.CreateDelegate(typeof(Action<Context, Event>), instance, method);
                return (context, @event) =>
                {
                    typed(context, @event);
                    return null;
                };
            }

            internal static Func<Context, object> OfContext<T>(object instance, MethodInfo method)
            {
                var typed = (Func<Context, T>)Delegate.CreateDelegate(typeof(Func<Context, T>), instance, method);
                return context => typed(context);
            }

            internal static Func<Context, object> OfContextVoid(object instance, MethodInfo method)
            {
                var typed = (Action<Context>)Delegate.CreateDelegate(typeof(Action<Context>), instance, method);
                return context =>
                {
                    typed(context);
                    return null;
                };
            }
        }

        // ---- tasks

        private static bool IsTask(Type type)
        {
            return typeof(Task).IsAssignableFrom(type) || type == typeof(ValueTask) ||
                type.IsGenericType && type.GetGenericTypeDefinition() == typeof(ValueTask<>);
        }

        /// <summary>Null: the value is none.</summary>
        internal static Task AsTask(object value)
        {
            if (value is Task task) return task;
            if (value is ValueTask done) return done.AsTask();
            if (value == null || !value.GetType().IsValueType || !IsTask(value.GetType())) return null;
            return (Task)value.GetType().GetMethod(nameof(ValueTask.AsTask)).Invoke(value, null);
        }

        /// <summary>What a task that has ended gives: its value, null if it has none, or its exception.</summary>
        internal static object ResultOf(Task task)
        {
            task.GetAwaiter().GetResult();
            return Results.GetOrAdd(task.GetType(), Reader)(task);
        }

        private static Func<Task, object> Reader(Type type)
        {
            while (type != null && !(type.IsGenericType && type.GetGenericTypeDefinition() == typeof(Task<>))) type = type.BaseType;
            // A task of an async method without a value is one of a type that nobody can name.
            if (type == null || type.GetGenericArguments()[0].Name == "VoidTaskResult") return _ => null;
            var make = typeof(Handler).GetMethod(nameof(Typed), BindingFlags.NonPublic | BindingFlags.Static);
            return (Func<Task, object>)make.MakeGenericMethod(type.GetGenericArguments()).Invoke(null, null);
        }

        private static Func<Task, object> Typed<T>()
        {
            return task => ((Task<T>)task).Result;
        }

        /// <summary>
        /// The handler's own assemblies: the SDK is the shim's, so that both mean the same types; the framework's are the
        /// framework's; others stand beside the handler, where its <c>deps.json</c> says or in its folder.
        /// </summary>
        private sealed class Neighbours : AssemblyLoadContext
        {
            private readonly AssemblyDependencyResolver resolver;
            private readonly string folder;
            private readonly HashSet<string> framework = new HashSet<string>(StringComparer.OrdinalIgnoreCase);

            internal Neighbours(string file)
            {
                resolver = new AssemblyDependencyResolver(file);
                folder = Path.GetDirectoryName(file);
                var trusted = (AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") as string ?? "").Split(Path.PathSeparator);
                foreach (var path in trusted) framework.Add(Path.GetFileNameWithoutExtension(path));
            }

            protected override Assembly Load(AssemblyName name)
            {
                var sdk = typeof(Context).Assembly;
                if (name.Name == sdk.GetName().Name) return sdk; // Whatever its version is.
                if (framework.Contains(name.Name) && FromFramework(name) is Assembly found) return found;
                var path = resolver.ResolveAssemblyToPath(name) ?? Path.Combine(folder, name.Name + ".dll");
                return File.Exists(path) ? LoadFromAssemblyPath(path) : null;
            }

            private static Assembly FromFramework(AssemblyName name)
            {
                try
                {
                    return Default.LoadFromAssemblyName(name);
                }
                catch (IOException)
                {
                    return null; // The handler brings a newer one.
                }
            }

            protected override IntPtr LoadUnmanagedDll(string name)
            {
                var path = resolver.ResolveUnmanagedDllToPath(name);
                return path == null ? IntPtr.Zero : LoadUnmanagedDllFromPath(path);
            }
        }
    }
}
