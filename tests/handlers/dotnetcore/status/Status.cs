using Nuclio.Sdk;

public class Status
{
    public Response Handle(Context context, Event @event) =>
        new Response { StatusCode = int.Parse(@event.Path.Substring(1)), Body = "as asked" };
}
