// One event on its way through the handler.

using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Nuclio.Sdk;

namespace Nuclio.Wrapper
{
    internal sealed class Call : ICancellation
    {
        private const int TextsFixed = 12;
        private static readonly DateTime Epoch = new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc);

        private readonly Shim shim;
        private CancellationTokenSource source;
        private long started;

        internal Call(Shim shim, in Frame frame, string[] triggers, int level)
        {
            this.shim = shim;
            Id = frame.Id;
            Level = level;
            Lack = frame.Lack;
            Event = Read(frame, triggers);
            Event.Cancellation = this;
        }

        internal uint Id { get; }

        /// <summary>Lowest level of records that is wanted.</summary>
        internal int Level { get; }

        internal Event Event { get; }

        /// <summary>Why its body is not there; null: it is.</summary>
        internal OutOfMemoryException Lack { get; }

        /// <summary>Its answer, or the end of it, has been put. Written with the link's lock held.</summary>
        internal bool Answered { get; set; }

        /// <summary>The head of its answer has been put, pieces follow.</summary>
        internal bool Streams { get; set; }

        /// <summary>Nobody waits for it any more.</summary>
        internal bool Cancelled { get; private set; }

        /// <summary>Bytes of pieces that may be sent. With the link's lock held, as is the next.</summary>
        internal long Credit { get; set; }

        /// <summary>Set while a stream waits for credit.</summary>
        internal TaskCompletionSource<bool> Waiting { get; set; }

        public CancellationToken Token
        {
            get
            {
                CancellationTokenSource made;
                lock (this)
                {
                    if (source == null) source = new CancellationTokenSource();
                    made = source;
                    if (Cancelled) made.Cancel();
                }
                shim.KeepReading();
                return made.Token;
            }
        }

        internal void Begin()
        {
            started = Stopwatch.GetTimestamp();
        }

        /// <summary>Microseconds since it began.</summary>
        internal uint Micros()
        {
            if (started == 0) return 0;
            return (uint)Math.Min((Stopwatch.GetTimestamp() - started) * 1e6 / Stopwatch.Frequency, uint.MaxValue);
        }

        /// <summary>Tells whoever looks at the token, elsewhere: what listens to it is the user's.</summary>
        internal void Cancel()
        {
            CancellationTokenSource told;
            lock (this)
            {
                Cancelled = true;
                told = source;
            }
            if (told == null) return;
            Task.Run(() =>
            {
                try
                {
                    told.Cancel();
                }
                catch (Exception error)
                {
                    shim.Report(this, error, "Exception caught in what listens to a cancelled event");
                }
            });
        }

        // ---- the event of a frame

        private static Event Read(in Frame frame, string[] triggers)
        {
            if ((frame.Flags & Flag.MoreIn) != 0) throw new ProtocolException("event " + frame.Id + ": request streams were not offered");
            if (frame.Head.Count < 32) throw new ProtocolException("event " + frame.Id + ": its head is too short");
            var head = (ReadOnlySpan<byte>)frame.Head;
            int headers = BinaryPrimitives.ReadUInt16LittleEndian(head.Slice(28));
            int fields = BinaryPrimitives.ReadUInt16LittleEndian(head.Slice(30));
            var typed = (frame.Flags & Flag.Typed) != 0;
            var values = typed ? TypedValues(head.Slice(32)) : null;
            var texts = typed ? values.ConvertAll(value => value as string).ToArray() : Encoding.UTF8.GetString(head.Slice(32)).Split('\0');
            if (texts.Length < TextsFixed + 2 * (headers + fields))
            {
                throw new ProtocolException(
                    "event " + frame.Id + " has " + texts.Length + " texts, want " + (TextsFixed + 2 * (headers + fields)));
            }
            var trigger = frame.Code & 0xfff;
            var micros = BinaryPrimitives.ReadInt64LittleEndian(head);
            return new Event
            {
                Id = texts[0],
                Method = texts[1],
                Path = texts[2] == "" ? "/" : texts[2],
                Url = texts[4],
                ContentType = texts[5],
                Type = texts[7],
                TypeVersion = texts[8] == "" ? null : texts[8],
                Version = texts[9],
                Trigger = new Trigger { Kind = texts[10] != "" ? texts[10] : trigger < triggers.Length ? triggers[trigger] : "" },
                Timestamp = Epoch.AddTicks(micros * 10),
                Headers = Table(texts, values, TextsFixed, headers),
                Fields = Table(texts, values, TextsFixed + 2 * headers, fields),
                Size = (frame.Flags & (Flag.NoBody | Flag.BodyJson)) != 0 ? 0 : frame.Body.Count,
                Body = frame.TakeBody(),
            };
        }

        private static Dictionary<string, object> Table(string[] texts, List<object> values, int at, int pairs)
        {
            var table = new Dictionary<string, object>(pairs);
            for (var end = at + 2 * pairs; at < end; at += 2) table[texts[at] ?? ""] = values == null ? texts[at + 1] : values[at + 1];
            return table;
        }

        /// <summary>Items of events that carry more than plain text: each has a type and a length.</summary>
        private static List<object> TypedValues(ReadOnlySpan<byte> bytes)
        {
            var values = new List<object>();
            while (bytes.Length >= 5)
            {
                var length = BinaryPrimitives.ReadUInt32LittleEndian(bytes.Slice(1));
                if (length > bytes.Length - 5) throw new ProtocolException("a typed value is longer than its frame");
                values.Add(TypedValue((char)bytes[0], bytes.Slice(5, (int)length)));
                bytes = bytes.Slice(5 + (int)length);
            }
            return values;
        }

        private static object TypedValue(char type, ReadOnlySpan<byte> bytes)
        {
            switch (type)
            {
                case 's':
                    return Encoding.UTF8.GetString(bytes);
                case 'i':
                    return BinaryPrimitives.ReadInt64LittleEndian(bytes);
                case 'f':
                    return BitConverter.Int64BitsToDouble(BinaryPrimitives.ReadInt64LittleEndian(bytes));
                case 't':
                    return bytes[0] != 0;
                case 'n':
                    return null;
                case 'l':
                    return TypedValues(bytes);
                case 'm':
                    var items = TypedValues(bytes);
                    var map = new Dictionary<string, object>();
                    for (var at = 0; at + 1 < items.Count; at += 2) map[items[at] as string ?? ""] = items[at + 1];
                    return map;
                default:
                    return bytes.ToArray();
            }
        }
    }
}
