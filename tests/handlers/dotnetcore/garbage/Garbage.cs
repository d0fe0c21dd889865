using System;
using System.Collections.Generic;
using Nuclio.Sdk;

public class Garbage
{
    public object Handle(Context context, Event @event)
    {
        switch (@event.Path)
        {
            case "/throw":
                throw new InvalidOperationException("thrown on purpose");
            case "/status":
                return new Response { Body = "x", StatusCode = -7 };
            case "/header":
                var headers = new Dictionary<string, object> { { "bad name", "1" }, { "X-Split", "a\r\nb: c" } };
                return new Response { Body = "x", Headers = headers };
            case "/text":
                return "\ud800!";
            default:
                return "well";
        }
    }
}
