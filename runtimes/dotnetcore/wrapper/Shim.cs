// Protocol 2: from HELLO to the end. One thread reads, and runs the handler itself: no event changes threads unless its
// handler is asynchronous, streams, or wants to know of its cancellation.

using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Nuclio.Sdk;

namespace Nuclio.Wrapper
{
    internal sealed class Shim : ILogSink
    {
        private const int Version = 2;
        private const int InFlightMax = 16384;
        private const int Prefetch = 32; // events that may wait here
        private const int PieceBytesMax = 64 * 1024;
        private const int MessageMax = 64 * 1024; // characters
        private const int LogsHeldMsMax = 100;
        private const int LoadFailed = 1, InitFailed = 2, ProtocolFault = 3; // codes of FAILED
        private const int DeadlinePassed = 2; // of CANCEL
        private const int SigtermStatus = 128 + 15; // of a process that ends because of it
        private const int Drain = 1, Terminate = 3; // of CONTROL

        private readonly Link link;
        private readonly Context context = new Context();
        private Dictionary<string, string> settings;
        private string[] triggers = Array.Empty<string>();
        private Handler handler;
        private int workerLevel;
        private int inFlightMax = 1;
        private long credit;

        /// <summary>Held for the next three.</summary>
        private readonly object calls = new object();
        private readonly Queue<Call> queue = new Queue<Call>(); // that have not begun
        private readonly Dictionary<uint, Call> open = new Dictionary<uint, Call>(); // that have
        private bool stopping;

        /// <summary>Whose code runs: one of them at a time, or one per flow of control.</summary>
        private volatile Call only;
        private readonly AsyncLocal<Call> several = new AsyncLocal<Call>();

        /// <summary>This thread is the one that reads.</summary>
        [ThreadStatic]
        private static bool reader;
        private readonly SemaphoreSlim spare = new SemaphoreSlim(0);
        private int spares; // threads that wait there
        private volatile bool ended;

        internal Shim(Link link)
        {
            this.link = link;
            context.Logger.Sink = this;
        }

        // ---- life

        internal int Run()
        {
            AppDomain.CurrentDomain.ProcessExit += (_, __) => Leaving();
            AppDomain.CurrentDomain.UnhandledException += (_, raised) =>
                Report(null, raised.ExceptionObject as Exception, "Uncaught exception outside of any event");
            TaskScheduler.UnobservedTaskException += (_, raised) =>
                Report(null, raised.Exception, "Exception of a task that nobody has waited for");
            lock (link.Lock)
            {
                link.PutRaw(Encoding.ASCII.GetBytes("NSH2"));
                PutPairs(Kind.Hello, Version,
                    "language", "dotnetcore", "version", Environment.Version.ToString(), "sdk",
                    typeof(Context).Assembly.GetName().Version.ToString(3), "protocol_min", "2", "protocol_max", "2",
                    "capabilities", "cancel,deadline,client-gone,stream-out,control", "max_inflight", InFlightMax.ToString(),
                    "prefetch", Prefetch.ToString(), "pid", Process.GetCurrentProcess().Id.ToString());
                link.Flush();
            }
            Serve();
            return 0;
        }

        /// <summary>Reads, on one thread at a time; the others wait until they are wanted. Never returns.</summary>
        private void Serve()
        {
            while (true)
            {
                reader = true;
                try
                {
                    while (reader)
                    {
                        while (link.Next(out var frame)) Received(frame);
                        Pump();
                        if (reader && !link.Fill()) Ended();
                    }
                }
                catch (EndOfStreamException)
                {
                    Ended();
                }
                catch (Exception error) when (error is ProtocolException || error is ArgumentException || error is IndexOutOfRangeException)
                {
                    Fail(ProtocolFault, error.Message);
                }
                Interlocked.Increment(ref spares);
                spare.Wait();
            }
        }

        /// <summary>The handler of this thread wants to know what comes meanwhile: another thread reads from now on.</summary>
        internal void KeepReading()
        {
            if (!reader || handler == null || handler.Asynchronous) return;
            reader = false;
            if (Interlocked.Decrement(ref spares) >= 0)
            {
                spare.Release();
                return;
            }
            Interlocked.Increment(ref spares);
            new Thread(Serve) { IsBackground = true }.Start();
        }

        /// <summary>The processor has closed its end.</summary>
        private void Ended()
        {
            foreach (var call in Begun()) call.Cancel();
            Leave(0);
        }

        private List<Call> Begun()
        {
            lock (calls) return open.Values.ToList();
        }

        private void Leave(int status)
        {
            ended = true;
            Environment.Exit(status);
        }

        /// <summary>Tells the processor why this process is of no use, and ends it.</summary>
        private void Fail(ushort code, string text)
        {
            lock (link.Lock)
            {
                link.Put(Kind.Failed, 0, code, 0, default, Encoding.UTF8.GetBytes(text));
                link.Flush();
            }
            Leave(1);
        }

        /// <summary>SIGTERM: the events that have begun are finished. An exit of the handler's own waits for nothing.</summary>
        private void Leaving()
        {
            if (ended) return;
            if (Environment.ExitCode == SigtermStatus && !reader)
            {
                lock (calls) stopping = true;
                long.TryParse(Setting("stop_timeout_ms"), out var allowed);
                var since = Stopwatch.StartNew();
                while (Begun().Count > 0 && since.ElapsedMilliseconds < Math.Max(allowed, 1000)) Thread.Sleep(5);
                Environment.ExitCode = 0;
            }
            if (!Monitor.TryEnter(link.Lock, LogsHeldMsMax)) return; // Somebody is in the middle of a write that does not end.
            link.Flush();
            Monitor.Exit(link.Lock);
        }

        // ---- frames

        private void Received(in Frame frame)
        {
            if (settings == null && frame.Kind != Kind.Init && (frame.Flags & Flag.Optional) == 0)
            {
                throw new ProtocolException("a frame of kind 0x" + frame.Kind.ToString("x2") + " before INIT");
            }
            switch (frame.Kind)
            {
                case Kind.Event:
                    var level = frame.Code >> 12;
                    var call = new Call(this, frame, triggers, level == 0 ? workerLevel : level - 1);
                    lock (calls) queue.Enqueue(call);
                    break;
                case Kind.Credit:
                    Credited(frame.Id, BinaryPrimitives.ReadUInt32LittleEndian(frame.Head));
                    break;
                case Kind.Cancel:
                    Cancel(frame.Id, frame.Code);
                    break;
                case Kind.Control:
                    Control(frame.Id, frame.Code);
                    break;
                case Kind.Init:
                    Initialize(frame.Code, Encoding.UTF8.GetString(frame.Head));
                    break;
                case Kind.Ping:
                    lock (link.Lock)
                    {
                        link.Put(Kind.Pong, 0, frame.Code, frame.Id, default, frame.Body);
                        link.Flush();
                    }
                    break;
                default:
                    if ((frame.Flags & Flag.Optional) != 0) break;
                    throw new ProtocolException("unexpected frame of kind 0x" + frame.Kind.ToString("x2"));
            }
        }

        private void PutPairs(byte kind, ushort code, params string[] pairs)
        {
            link.Put(kind, 0, code, 0, Encoding.UTF8.GetBytes(string.Join("\0", pairs)), default);
        }

        private string Setting(string name)
        {
            return settings != null && settings.TryGetValue(name, out var value) ? value : "";
        }

        private long Number(string name, long otherwise)
        {
            return long.TryParse(Setting(name), out var number) && number > 0 ? number : otherwise;
        }

        /// <summary>From INIT to READY.</summary>
        private void Initialize(int version, string text)
        {
            if (version != Version || settings != null) throw new ProtocolException("want one INIT of protocol 2, got version " + version);
            var texts = text.Split('\0');
            settings = new Dictionary<string, string>();
            for (var at = 0; at + 1 < texts.Length; at += 2) settings[texts[at]] = texts[at + 1];
            link.FrameBytesMax = Number("max_frame", link.FrameBytesMax);
            credit = Number("credit", 256 * 1024);
            workerLevel = (int)Number("log_level", 0);
            triggers = Enumerable.Range(0, (int)Number("triggers", 0)).Select(at => Setting("trigger." + at + ".kind")).ToArray();
            context.Name = Setting("function_name");
            context.Version = Setting("function_version");
            context.WorkerId = (int)Number("worker_id", 0);
            context.TriggerName = Setting("trigger_name");
            try
            {
                handler = Handler.Load(Setting("handler_dir"), Setting("handler"), Warn);
            }
            catch (LoadException error)
            {
                Fail(LoadFailed, error.Message);
            }
            catch (Exception error)
            {
                Fail(LoadFailed, "failed to load handler \"" + Setting("handler") + "\": " + Said.All(error));
            }
            try
            {
                handler.Initialize(context);
            }
            catch (Exception error)
            {
                Fail(InitFailed, "InitContext failed: " + Said.All(error));
            }
            // Several only where both ask for it: handlers used to be called for one event at a time.
            if (handler.Asynchronous && Setting("max_inflight_for") != "async") inFlightMax = (int)Number("max_inflight", 1);
            lock (link.Lock)
            {
                PutPairs(Kind.Ready, 0, "handler_async", handler.Asynchronous ? "1" : "0", "max_inflight", inFlightMax.ToString());
                link.Flush();
            }
        }

        private void Control(uint id, int code)
        {
            var callback = code == Drain ? context.OnDrain : code == Terminate ? context.OnTermination : null;
            Task.Run(async () =>
            {
                ushort outcome = 0;
                var text = "";
                try
                {
                    var task = callback?.Invoke();
                    if (task != null) await task.ConfigureAwait(false);
                }
                catch (Exception error)
                {
                    outcome = 1;
                    text = Said.Message(error);
                    Report(null, error, "Exception caught in callback");
                }
                lock (link.Lock)
                {
                    link.Put(Kind.ControlDone, 0, outcome, id, default, Encoding.UTF8.GetBytes(text));
                    link.Flush();
                }
            });
        }

        // ---- events

        /// <summary>Begins events while there is room.</summary>
        private void Pump()
        {
            while (true)
            {
                Call call;
                lock (calls)
                {
                    if (queue.Count == 0 || open.Count >= inFlightMax || stopping) return;
                    call = queue.Dequeue();
                    open.Add(call.Id, call);
                }
                Start(call);
            }
        }

        private void Start(Call call)
        {
            call.Begin();
            var alone = inFlightMax == 1;
            if (alone) only = call;
            else several.Value = call;
            try
            {
                if (call.Lack != null) throw call.Lack;
                var value = handler.Invoke(context, call.Event);
                var task = value is string ? null : Handler.AsTask(value);
                if (task == null) Give(call, value);
                else if (task.IsCompleted) Give(call, Handler.ResultOf(task));
                else _ = Later(call, task);
            }
            catch (Exception error)
            {
                Failed(call, error);
            }
            if (!alone) several.Value = null;
        }

        private async Task Later(Call call, Task task)
        {
            try
            {
                await ((Task)task.ContinueWith(_ => { }, TaskContinuationOptions.ExecuteSynchronously)).ConfigureAwait(false);
                Give(call, Handler.ResultOf(task));
            }
            catch (Exception error)
            {
                Failed(call, error);
            }
            Pump();
        }

        /// <summary>Answers with a value. Throws if it is none.</summary>
        private void Give(Call call, object value)
        {
            if (value is Exception error)
            {
                Failed(call, error);
                return;
            }
            var answer = Answer.Of(value, Warn);
            if (answer.Pieces != null)
            {
                _ = Task.Run(() => Stream(call, answer)); // What it does between pieces is the user's, and may take long.
                return;
            }
            var length = answer.Text == null ? answer.Bytes.LongLength : answer.Text.Length;
            if (length > link.FrameBytesMax - PieceBytesMax)
            {
                throw new InvalidOperationException("an answer of " + length + " bytes is above the limit; stream it");
            }
            Put(call, answer, 0);
        }

        private void Failed(Call call, Exception error)
        {
            if (!call.Cancelled) Report(call, error, "Exception caught in handler");
            Put(call, Answer.Plain(500, TextOf(error)), call.Cancelled ? Flag.Cancelled : (byte)0);
        }

        /// <summary>compat: the message alone. That of a static constructor says nothing without its cause.</summary>
        private static string TextOf(Exception error)
        {
            return error is TypeInitializationException && error.InnerException != null
                ? error.Message + " (" + Said.Message(error.InnerException) + ")"
                : Said.Message(error);
        }

        private void Put(Call call, Answer answer, byte flags)
        {
            lock (link.Lock)
            {
                if (call.Answered || call.Streams) return;
                link.PutAnswer(call.Id, (byte)(flags | answer.Flags), answer, call.Micros());
                call.Answered = true;
                // Before the next begins, which may be slow or the last.
                link.Flush();
            }
            Finish(call);
        }

        private void Finish(Call call)
        {
            lock (calls)
            {
                open.Remove(call.Id);
                if (only == call) only = null;
            }
        }

        private void Cancel(uint id, int code)
        {
            Call call;
            bool begun;
            lock (calls)
            {
                begun = open.TryGetValue(id, out call);
                if (!begun) call = TakeBack(id);
            }
            if (call == null) return;
            call.Cancel();
            if (!begun || code == DeadlinePassed && inFlightMax > 1 && !call.Streams)
            {
                // Its caller has been answered. What its handler still does goes nowhere.
                Put(call, Answer.Plain(500, "cancelled"), Flag.Cancelled);
            }
            EndStream(call, Encoding.UTF8.GetBytes("cancelled"), Flag.Abort);
        }

        /// <summary>One that has not begun.</summary>
        private Call TakeBack(uint id)
        {
            var all = queue.ToList();
            queue.Clear();
            foreach (var other in all.Where(other => other.Id != id)) queue.Enqueue(other);
            return all.Find(other => other.Id == id);
        }

        // ---- streams

        private async Task Stream(Call call, Answer answer)
        {
            var pieces = answer.Pieces;
            try
            {
                pieces.Begin(call.Token);
                var piece = await pieces.Next().ConfigureAwait(false);
                if (BeginStream(call, answer))
                {
                    while (piece != null && await Send(call, piece.Value).ConfigureAwait(false)) piece = await pieces.Next().ConfigureAwait(false);
                    EndStream(call, Array.Empty<byte>(), Flag.End);
                }
            }
            catch (Exception error)
            {
                if (!call.Streams) Failed(call, error);
                else if (!call.Answered)
                {
                    Report(call, error, "Exception caught in a streamed answer");
                    EndStream(call, Encoding.UTF8.GetBytes(Said.Message(error)), Flag.Abort);
                }
            }
            try
            {
                pieces.Dispose();
            }
            catch (Exception error)
            {
                Report(call, error, "Exception caught at the end of a streamed answer");
            }
            Pump();
        }

        private bool BeginStream(Call call, Answer answer)
        {
            if (call.Cancelled) Put(call, Answer.Plain(500, "cancelled"), Flag.Cancelled);
            lock (link.Lock)
            {
                if (call.Answered) return false;
                call.Credit = credit;
                call.Streams = true;
                link.PutAnswer(call.Id, (byte)(Flag.More | answer.Flags), answer, call.Micros());
                link.Flush();
            }
            // Cancelled right now: whoever did that may have come too early to end the stream.
            if (call.Cancelled) EndStream(call, Encoding.UTF8.GetBytes("cancelled"), Flag.Abort);
            return true;
        }

        /// <summary>Sends one item of a stream as far as the processor's credit goes; false: nobody wants it any more.</summary>
        private async Task<bool> Send(Call call, ReadOnlyMemory<byte> bytes)
        {
            while (bytes.Length > 0)
            {
                Task wait;
                lock (link.Lock)
                {
                    if (call.Answered) return false;
                    wait = call.Credit > 0 ? null : (call.Waiting = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
                    if (wait == null)
                    {
                        var count = (int)Math.Min(Math.Min(bytes.Length, PieceBytesMax), call.Credit);
                        call.Credit -= count;
                        link.Put(Kind.Data, 0, 0, call.Id, default, bytes.Span.Slice(0, count));
                        bytes = bytes.Slice(count);
                        link.Flush();
                    }
                }
                if (wait != null) await wait.ConfigureAwait(false);
            }
            lock (link.Lock) return !call.Answered;
        }

        /// <summary>Ends a stream that has begun and not ended.</summary>
        private void EndStream(Call call, byte[] text, byte flags)
        {
            lock (link.Lock)
            {
                if (!call.Streams || call.Answered) return;
                link.Put(Kind.Data, flags, 0, call.Id, default, text);
                call.Answered = true;
                link.Flush();
                call.Waiting?.TrySetResult(true);
            }
            Finish(call);
        }

        private void Credited(uint id, uint bytes)
        {
            Call call;
            lock (calls) open.TryGetValue(id, out call);
            if (call == null) return;
            lock (link.Lock)
            {
                call.Credit += bytes;
                call.Waiting?.TrySetResult(true);
            }
        }

        // ---- logs

        private Call Current
        {
            get { return inFlightMax == 1 ? only : several.Value; }
        }

        public bool Wants(int level)
        {
            var call = Current;
            return level >= (call == null ? workerLevel : call.Level);
        }

        public void Put(int level, DateTime time, string message, Dictionary<string, object> fields)
        {
            Put(Current, level, time, message, fields);
        }

        /// <summary>Holds a record; it goes out with the next answer, or now.</summary>
        private void Put(Call call, int level, DateTime time, string message, Dictionary<string, object> fields)
        {
            if (message.Length > MessageMax) message = message.Substring(0, MessageMax) + "... (" + message.Length + " characters)";
            var head = new byte[8 + Encoding.UTF8.GetByteCount(message)];
            BinaryPrimitives.WriteInt64LittleEndian(head, (time.Ticks - 621355968000000000) / 10);
            Encoding.UTF8.GetBytes(message, 0, message.Length, head, 8);
            var body = fields == null ? Array.Empty<byte>() : Encoding.UTF8.GetBytes(Fields.Json(fields));
            lock (link.Lock)
            {
                var id = call == null || call.Answered ? 0 : call.Id;
                link.Put(Kind.Log, 0, (ushort)level, id, head, body);
                var late = Environment.TickCount - link.WrittenAt > LogsHeldMsMax;
                if (id == 0 || level >= Logger.WarningLevel || late || Setting("log_flush") == "always") link.Flush();
            }
        }

        private void Warn(string message)
        {
            Put(Current, Logger.WarningLevel, DateTime.UtcNow, message, null);
        }

        internal void Report(Call call, Exception error, string message)
        {
            var fields = new Dictionary<string, object>();
            if (error != null)
            {
                fields["err"] = Said.Message(error);
                fields["stack"] = Said.All(error);
            }
            Put(call, Logger.ErrorLevel, DateTime.UtcNow, message, fields);
        }
    }
}
