using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Text;
using System.Threading.Tasks;
using Nuclio.Sdk;

/// <summary>The harness' questions to .NET; the path says what (see ../../workload.rs).</summary>
public class Work
{
    public string Empty(Context context, Event @event) => "hello";

    public async Task<object> Handle(Context context, Event @event)
    {
        switch (@event.Path)
        {
            case "/echo": return @event.Body;
            case "/stream": return new Response { Content = Pieces() };
            case "/detect": return Detect(Encoding.ASCII.GetString(@event.Body));
            case "/cpu": Burn(100); break;
            case "/sleep": await Task.Delay(10); break;
            case "/fanout":
                for (var number = 0; number < 4; number++) await Task.Delay(5);
                break;
            case "/log":
                context.Logger.Info("first");
                context.Logger.InfoWith("second", "number", 7);
                context.Logger.Info("third");
                break;
        }
        return "hello";
    }

    private static void Burn(double micros)
    {
        var clock = Stopwatch.StartNew();
        while (clock.Elapsed.TotalMilliseconds * 1000 < micros) { }
    }

    private static string Detect(string body)
    {
        var start = body.IndexOf(": \"", StringComparison.Ordinal) + 3;
        Convert.FromBase64String(body.Substring(start, body.IndexOf('"', start) - start));
        Burn(20000);
        return "[]";
    }

    private static async IAsyncEnumerable<object> Pieces()
    {
        var piece = Encoding.ASCII.GetBytes(new string('x', 1024));
        for (var number = 0; number < 10; number++)
        {
            await Task.CompletedTask;
            yield return piece;
        }
    }
}
