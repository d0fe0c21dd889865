using Nuclio.Sdk;

public class Log
{
    public string Handle(Context context, Event @event)
    {
        context.Logger.Debug("d");
        context.Logger.InfoWith("i", "number", 1, "text", "grüß");
        context.Logger.Warning("w");
        context.Logger.Error("e");
        return "logged";
    }
}
