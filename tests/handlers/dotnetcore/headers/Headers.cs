using System.Collections.Generic;
using Nuclio.Sdk;

public class Headers
{
    public Response Handle(Context context, Event @event) => new Response
    {
        Body = "<p>",
        ContentType = "text/html",
        Headers = new Dictionary<string, object>
        {
            { "X-Seen", @event.Headers["X-Ask"] },
            { "X-Number", 7 },
            { "X-Twice", new[] { "a", "b" } },
        },
    };
}
