using System;
using System.Diagnostics;
using System.Threading;
using Nuclio.Sdk;

public class Crash
{
    public string Handle(Context context, Event @event)
    {
        if (@event.Path == "/exit") Environment.Exit(7);
        if (@event.Path == "/signal")
        {
            Process.GetCurrentProcess().Kill();
            Thread.Sleep(Timeout.Infinite);
        }
        return "alive";
    }
}
