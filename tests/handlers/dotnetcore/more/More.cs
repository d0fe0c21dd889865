// What only .NET handlers do; `tests/integration/dotnet.rs` says what is expected of each.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.Json;
using System.Threading;
using System.Threading.Tasks;
using Nuclio.Sdk;

public class More
{
    private static int running;
    private int count;

    public object Url(Context context, Event @event) =>
        $"{@event.Headers.ContainsKey("X-Ask")} {@event.Headers.ContainsKey("x-ask")} [{@event.Url}] [{@event.GetBody()}] {@event.Body.Length}";

    public object Odd(Context context, Event @event)
    {
        switch (@event.Path)
        {
            case "/throw": throw new Odd();
            case "/return": return new Odd();
            case "/task": return Task.Delay(10).ContinueWith<object>(_ => throw new Odd());
            case "/many": return new Response { Headers = new Dictionary<string, object> { { "X", Enumerable.Repeat("", 70000) } } };
            case "/values":
                var bytes = System.Text.Encoding.UTF8.GetBytes("bytes");
                var map = new Dictionary<string, int> { { "a", 1 } };
                return new Response { Headers = new Dictionary<string, object> { { "X-Bytes", bytes }, { "X-Map", map } } };
            default: return @event.Body.Length;
        }
    }

    public Response HeadersBack(Context context, Event @event) =>
        new Response { Body = "back", Headers = @event.Headers };

    public string Reverse(Context context, Event @event)
    {
        @event.SetBody(new string(@event.GetBody().Reverse().ToArray()));
        context.Logger.Info("Umgedreht: {0} – {1}", @event.GetBody(), "größer");
        return @event.GetBody();
    }

    public object Image(Context context, Event @event) =>
        new Response { Content = new byte[] { 0xff, 0xd8, 0 }, ContentType = "image/jpeg" };

    public string Json(Context context, Event @event)
    {
        var image = JsonDocument.Parse(@event.Body).RootElement.GetProperty("image").GetBytesFromBase64();
        return JsonSerializer.Serialize(new { bytes = image.Length });
    }

    public object Count(Context context, Event @event)
    {
        count++;
        context.UserData["n"] = context.UserData.TryGetValue("n", out var before) ? (int)before + 1 : 1;
        return $"{count} {context.UserData["n"]} {context.Name} {context.IsInitialized} {context.WorkerId}";
    }

    public async Task<object> LateTask(Context context, Event @event)
    {
        await Task.Delay(10);
        if (@event.Path == "/throw") throw new InvalidOperationException("after the delay");
        return new Response { StatusCode = 202, Body = "late" };
    }

    public async Task NoValue(Context context, Event @event) => await Task.Yield();

    public async ValueTask<int> Value(Context context, Event @event)
    {
        await Task.Yield();
        return 6 * 7;
    }

    public object Hidden(Context context, Event @event) => Task.Run(() => "of a task that is an object");

    public void Nothing(Context context, Event @event)
    {
    }

    public System.IO.Stream File(Context context, Event @event) => System.IO.File.OpenRead(@event.GetBody());

    /// <summary>Counts those that run at the same time; ends when there are two, or after a while.</summary>
    public async Task<string> Meet(Context context, Event @event)
    {
        if (@event.Path == "/hang")
        {
            try
            {
                await Task.Delay(Timeout.Infinite, @event.CancellationToken);
            }
            catch (OperationCanceledException)
            {
                context.Logger.Warning("told {0}", @event.Path);
            }
            return "too late";
        }
        Interlocked.Increment(ref running);
        context.Logger.Warning("begun {0}", @event.Path);
        for (var look = 0; look < 100 && Volatile.Read(ref running) < 2; look++) await Task.Delay(10);
        var seen = running;
        await Task.Delay(50);
        Interlocked.Decrement(ref running);
        context.Logger.Warning("ended {0}", @event.Path);
        return seen.ToString();
    }

    /// <summary>Not asynchronous, and still told.</summary>
    public string Waits(Context context, Event @event)
    {
        if (@event.Path == "/") return "fine";
        var token = @event.CancellationToken;
        context.Logger.Warning("waiting");
        token.WaitHandle.WaitOne();
        context.Logger.Warning("no longer waiting");
        return "gone";
    }

    public string Fields(Context context, Event @event)
    {
        var cycle = new Node();
        cycle.Next = cycle;
        context.Logger.InfoWith(
            "odd fields", "cycle", cycle, "error", new FormatException("inside"), "nan", double.NaN, "half", "\ud800", "list",
            new[] { 1, 2 }, "none", null, 7, true, "alone");
        return "logged";
    }

    public string Output(Context context, Event @event)
    {
        Console.WriteLine("from the console");
        Console.Error.WriteLine("from the error console");
        var start = new System.Diagnostics.ProcessStartInfo("/bin/ls", "-l /proc/self/fd") { RedirectStandardOutput = true, UseShellExecute = false };
        using (var listing = System.Diagnostics.Process.Start(start)) return listing.StandardOutput.ReadToEnd();
    }

    public string Background(Context context, Event @event)
    {
        if (@event.Path == "/thread") new Thread(() => throw new InvalidOperationException("of the background")).Start();
        return "answered";
    }

    public string Deep(Context context, Event @event) => @event.Path == "/" ? "fine" : Deep(context, @event) + "x";

    public async Task<string> Stops(Context context, Event @event)
    {
        context.SetTerminationCallback(async () =>
        {
            await Task.Delay(20);
            context.Logger.Warning("terminated");
        });
        context.Logger.Warning("holding");
        await Task.Delay(300);
        return "finished";
    }

    public async IAsyncEnumerable<int> SlowStream(Context context, Event @event)
    {
        if (@event.Path != "/once") await Task.Delay(500);
        yield return 1;
    }

    public string Gray(Context context, Event @event) => Encoding.UTF8.GetString(@event.Body);

    internal string Inner(Context context, Event @event) => "";

    public string OneArgument(Event @event) => "";

    public Span<byte> Span(Context context, Event @event) => default;

    public class Node
    {
        public Node Next { get; set; }
    }
}

public class Statically
{
    private static readonly int Number = int.Parse("no number");

    public int Handle(Context context, Event @event) => Number;
}

public class Constructed
{
    public Constructed() => throw new InvalidOperationException("in the constructor");

    public string Handle(Context context, Event @event) => "";
}

public class InitFails
{
    public void InitContext(Context context) => throw new InvalidOperationException("in InitContext");

    public string Handle(Context context, Event @event) => "";
}

public class InitExits
{
    public void InitContext(Context context) => Environment.Exit(5);

    public string Handle(Context context, Event @event) => "";
}

public class InitLater
{
    public async Task InitContext(Context context)
    {
        await Task.Delay(20);
        context.UserData["later"] = "awaited";
    }

    public object Handle(Context context, Event @event) => context.UserData["later"];
}

public class NoConstructor
{
    private readonly string text;

    public NoConstructor(string text) => this.text = text;

    public string Handle(Context context, Event @event) => "called" + text;
}

public class InitDiffers
{
    public void InitContext(string other)
    {
    }

    public string Handle(Context context, Event @event) => "called";
}

namespace Inside
{
    public class Spaced
    {
        public string Handle(Context context, Event @event) => "by its name";
    }
}

/// <summary>One whose own members fail.</summary>
public class Odd : Exception
{
    public override string Message => throw new InvalidOperationException();

    public override string ToString() => throw new InvalidOperationException();
}
