using System.Collections.Generic;
using System.Threading;
using Nuclio.Sdk;

public class SlowStart
{
    static SlowStart()
    {
        Thread.Sleep(700);
    }

    public void InitContext(Context context)
    {
        Thread.Sleep(300);
        context.UserData = new Dictionary<string, object> { { "ready", "ready" } };
    }

    public object Handle(Context context, Event @event) => context.UserData["ready"];
}
