using Nuclio.Sdk;

public class Handler
{
    public string Handle(Context context, Event @event) =>
        "Hello, " + (@event.Fields.TryGetValue("name", out var name) ? name : "world");
}
