using Nuclio.Sdk;

public class Echo
{
    public byte[] Handle(Context context, Event @event) => @event.Body;
}
