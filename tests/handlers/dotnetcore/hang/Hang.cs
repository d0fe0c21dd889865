using Nuclio.Sdk;

public class Hang
{
    public string Handle(Context context, Event @event)
    {
        while (@event.Path == "/hang")
        {
        }
        return "back";
    }
}
