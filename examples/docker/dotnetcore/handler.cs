using Nuclio.Sdk;

public class Function
{
    public object Handler(Context context, Event eventBase)
    {
        return "Hello from dotnetcore";
    }
}
