using System;
using System.Collections.Generic;
using System.IO;
using System.Threading.Tasks;
using Nuclio.Sdk;

public class Stream
{
    public Response Handle(Context context, Event @event) => new Response
    {
        StatusCode = 201,
        ContentType = "text/csv",
        Headers = new Dictionary<string, object> { { "X-Kind", "pieces" } },
        Content = Pieces(context, @event.Path, @event.GetBody()),
    };

    private static async IAsyncEnumerable<object> Pieces(Context context, string path, string body)
    {
        try
        {
            for (var number = 0; ; number++)
            {
                if (path == "/flood") yield return new byte[100000];
                else yield return number + "\n";
                if (path == "/five" && number == 4) yield break;
                if (path == "/broken")
                {
                    if (File.Exists(body)) throw new InvalidOperationException("broken on purpose");
                    await Task.Delay(5);
                }
            }
        }
        finally
        {
            context.Logger.Warning("stream closed");
        }
    }
}
