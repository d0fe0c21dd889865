using Nuclio.Sdk;

public class BigBody
{
    public object Handle(Context context, Event @event) =>
        @event.Method == "PUT" ? (object)@event.Body.Length : @event.Body;
}
