// Protocol 1, which the Go processor speaks: events are lines of JSON, what comes back are lines of a letter and JSON.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Nuclio.Sdk;

namespace Nuclio.Wrapper
{
    internal sealed class Lines : ILogSink
    {
        private const string NoAckHeader = "x-nuclio-stream-no-ack";
        private const int LinesBytesMax = 64 * 1024; // of records that wait for an answer
        private static readonly string[] Levels = { "debug", "info", "warning", "error" };
        private static readonly JsonWriterOptions Relaxed = new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

        private readonly Stream stream;
        private readonly MemoryStream lines = new MemoryStream(); // that go out with the next write; its lock is held for both
        private readonly Context context = new Context();
        private bool working;

        internal Lines(Stream stream)
        {
            this.stream = stream;
            context.Logger.Sink = this;
            context.Name = Environment.GetEnvironmentVariable("NUCLIO_FUNCTION_NAME");
            context.Version = Environment.GetEnvironmentVariable("NUCLIO_FUNCTION_VERSION");
        }

        internal int Run()
        {
            Handler handler;
            try
            {
                handler = Handler.Load(
                    Environment.GetEnvironmentVariable("NUCLIO_HANDLER_DIR"), Environment.GetEnvironmentVariable("NUCLIO_FUNCTION_HANDLER"), Warn);
                handler.Initialize(context);
            }
            catch (Exception error)
            {
                var text = error is LoadException ? error.Message : Said.All(error);
                Put(Logger.ErrorLevel, DateTime.UtcNow, "The handler cannot be loaded: " + text, null);
                Console.Error.WriteLine(text);
                return 1;
            }
            Write('s', null);
            Flush();
            var buffer = new byte[64 * 1024];
            var end = 0;
            while (true)
            {
                if (end == buffer.Length) Array.Resize(ref buffer, 2 * buffer.Length);
                var count = Read(buffer, end);
                if (count == 0) Environment.Exit(0); // Threads of the handler's are not waited for.
                var searched = end;
                end += count;
                var start = 0;
                for (var feed = Array.IndexOf(buffer, (byte)'\n', searched, end - searched); feed >= 0; feed = Array.IndexOf(buffer, (byte)'\n', start, end - start))
                {
                    if (feed > start) Serve(handler, buffer.AsMemory(start, feed - start));
                    start = feed + 1;
                }
                Buffer.BlockCopy(buffer, start, buffer, 0, end - start);
                end -= start;
            }
        }

        private int Read(byte[] buffer, int at)
        {
            try
            {
                return stream.Read(buffer, at, buffer.Length - at);
            }
            catch (IOException)
            {
                return 0;
            }
        }

        private void Serve(Handler handler, ReadOnlyMemory<byte> line)
        {
            var started = Stopwatch.GetTimestamp();
            working = true;
            Answer answer;
            try
            {
                var value = handler.Invoke(context, ReadEvent(line));
                var task = Handler.AsTask(value);
                if (task != null) value = Handler.ResultOf(task);
                if (value is Exception returned) answer = Failed(returned);
                else
                {
                    answer = Answer.Of(value, Warn);
                    answer.Collect();
                }
            }
            catch (Exception error)
            {
                answer = Failed(error);
            }
            working = false;
            var seconds = (Stopwatch.GetTimestamp() - started) / (double)Stopwatch.Frequency;
            Write('m', json => json.WriteNumber("duration", seconds));
            Write('r', json => WriteAnswer(json, answer));
            Flush();
        }

        private Answer Failed(Exception error)
        {
            var fields = new Dictionary<string, object> { { "err", Said.Message(error) }, { "stack", Said.All(error) } };
            Put(Logger.ErrorLevel, DateTime.UtcNow, "Exception caught in handler", fields);
            return Answer.Plain(500, Said.Message(error));
        }

        // ---- events

        private static Event ReadEvent(ReadOnlyMemory<byte> line)
        {
            using (var document = JsonDocument.Parse(line))
            {
                var root = document.RootElement;
                var seconds = root.TryGetProperty("timestamp", out var time) && time.ValueKind == JsonValueKind.Number ? time.GetDouble() : 0;
                return new Event
                {
                    Id = Text(root, "id"),
                    Method = Text(root, "method"),
                    Path = Text(root, "path"),
                    Url = Text(root, "url"),
                    ContentType = Text(root, "content_type"),
                    Type = Text(root, "type"),
                    TypeVersion = Text(root, "type_version") is string version && version != "" ? version : null,
                    Version = Text(root, "version"),
                    Trigger = new Trigger { Kind = root.TryGetProperty("trigger", out var trigger) ? Text(trigger, "kind") : "" },
                    Timestamp = DateTime.UnixEpoch.AddSeconds(seconds),
                    Headers = Table(root, "headers"),
                    Fields = Table(root, "fields"),
                    Size = root.TryGetProperty("size", out var size) && size.TryGetInt64(out var bytes) ? bytes : 0,
                    Body = Body(root),
                };
            }
        }

        private static byte[] Body(JsonElement root)
        {
            if (!root.TryGetProperty("body", out var body) || body.ValueKind == JsonValueKind.Null) return Array.Empty<byte>();
            // Anything else than text is the data of a structured cloud event.
            return body.ValueKind == JsonValueKind.String ? body.GetBytesFromBase64() : Encoding.UTF8.GetBytes(body.GetRawText());
        }

        private static string Text(JsonElement of, string name)
        {
            return of.ValueKind == JsonValueKind.Object && of.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String
                ? value.GetString()
                : "";
        }

        private static Dictionary<string, object> Table(JsonElement root, string name)
        {
            var table = new Dictionary<string, object>();
            if (!root.TryGetProperty(name, out var pairs) || pairs.ValueKind != JsonValueKind.Object) return table;
            foreach (var pair in pairs.EnumerateObject()) table[pair.Name] = Value(pair.Value);
            return table;
        }

        private static object Value(JsonElement value)
        {
            switch (value.ValueKind)
            {
                case JsonValueKind.String:
                    return value.GetString();
                case JsonValueKind.Number:
                    return value.TryGetInt64(out var whole) ? whole : (object)value.GetDouble();
                case JsonValueKind.True:
                case JsonValueKind.False:
                    return value.GetBoolean();
                case JsonValueKind.Null:
                    return null;
                default:
                    return value.GetRawText();
            }
        }

        // ---- answers

        private static void WriteAnswer(Utf8JsonWriter json, Answer answer)
        {
            if (answer.Text == null) json.WriteBase64String("body", answer.Bytes);
            else json.WriteString("body", Encoding.UTF8.GetBytes(answer.Text)); // Halves of pairs become U+FFFD.
            json.WriteString("body_encoding", answer.Text == null ? "base64" : "text");
            json.WriteString("content_type", Encoding.UTF8.GetBytes(answer.Type));
            json.WriteNumber("status_code", answer.Status);
            json.WriteStartObject("headers");
            if ((answer.Flags & Flag.NoAck) != 0) json.WriteBoolean(NoAckHeader, true);
            for (var at = 0; answer.Pairs != null && at < answer.Pairs.Count;)
            {
                // A header that is repeated is a list.
                var name = answer.Pairs[at];
                var values = new List<string>();
                for (; at < answer.Pairs.Count && answer.Pairs[at] == name; at += 2) values.Add(answer.Pairs[at + 1]);
                json.WritePropertyName(Encoding.UTF8.GetBytes(name));
                if (values.Count > 1) json.WriteStartArray();
                foreach (var value in values) json.WriteStringValue(Encoding.UTF8.GetBytes(value));
                if (values.Count > 1) json.WriteEndArray();
            }
            json.WriteEndObject();
        }

        /// <summary>Holds a line.</summary>
        private void Write(char letter, Action<Utf8JsonWriter> members)
        {
            lock (lines)
            {
                lines.WriteByte((byte)letter);
                if (members != null)
                {
                    using (var json = new Utf8JsonWriter(lines, Relaxed))
                    {
                        json.WriteStartObject();
                        members(json);
                        json.WriteEndObject();
                    }
                }
                lines.WriteByte((byte)'\n');
            }
        }

        private void Flush()
        {
            lock (lines)
            {
                try
                {
                    stream.Write(lines.GetBuffer(), 0, (int)lines.Length);
                }
                catch (IOException)
                {
                    // The processor is gone; the reading side notices it as well.
                }
                lines.SetLength(0);
            }
        }

        // ---- logs

        public bool Wants(int level)
        {
            return true;
        }

        public void Put(int level, DateTime time, string message, Dictionary<string, object> fields)
        {
            Write('l', json =>
            {
                json.WriteString("datetime", time.ToString("o", CultureInfo.InvariantCulture));
                json.WriteString("level", Levels[level]);
                json.WriteString("message", Encoding.UTF8.GetBytes(message));
                json.WritePropertyName("with");
                using (var with = JsonDocument.Parse(fields == null ? "{}" : Fields.Json(fields))) with.RootElement.WriteTo(json);
            });
            if (!working || level >= Logger.WarningLevel || lines.Length > LinesBytesMax) Flush();
        }

        private void Warn(string message)
        {
            Put(Logger.WarningLevel, DateTime.UtcNow, message, null);
        }
    }
}
