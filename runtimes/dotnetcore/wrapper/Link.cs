// The connection of protocol 2: little-endian frames with a fixed header of 16 bytes, over two streams.

using System;
using System.Buffers.Binary;
using System.IO;
using System.Text;

namespace Nuclio.Wrapper
{
    internal static class Kind
    {
        internal const byte Init = 0x01, Event = 0x02, Credit = 0x04, Cancel = 0x05, Control = 0x06, Ping = 0x08;
        internal const byte Hello = 0x81, Ready = 0x82, Answer = 0x83, Data = 0x84, Log = 0x86, ControlDone = 0x87;
        internal const byte Pong = 0x8b, Failed = 0x8f;
    }

    internal static class Flag
    {
        internal const byte MoreIn = 0x01, NoBody = 0x02, BodyJson = 0x04, Typed = 0x20; // of EVENT
        internal const byte More = 0x01, NoAck = 0x04, Cancelled = 0x10; // of ANSWER
        internal const byte End = 0x01, Abort = 0x02; // of DATA
        internal const byte Optional = 0x80; // of any
    }

    /// <summary>The other side does not keep to the protocol.</summary>
    internal sealed class ProtocolException : Exception
    {
        internal ProtocolException(string message) : base(message)
        {
        }
    }

    /// <summary>A frame that has been read. Head and body are valid until the next one is.</summary>
    internal struct Frame
    {
        internal byte Kind, Flags;
        internal ushort Code;
        internal uint Id;
        internal ArraySegment<byte> Head, Body;

        /// <summary>The body's array is of its size and belongs to nobody else.</summary>
        internal bool Owned;

        /// <summary>There was no memory for the body, which has been skipped; null: it is there.</summary>
        internal OutOfMemoryException Lack;

        /// <summary>The body, to keep.</summary>
        internal byte[] TakeBody()
        {
            if (Owned) return Body.Array;
            if (Body.Count == 0) return Array.Empty<byte>();
            return Body.AsSpan().ToArray();
        }
    }

    /// <summary>Reads frames on one thread at a time; writes them on any, who holds the lock.</summary>
    internal sealed class Link
    {
        internal const int HeaderBytes = 16;
        private const int BufferBytes = 64 * 1024;

        private readonly Stream input, output;
        private readonly byte[] inbox = new byte[BufferBytes];
        private int inStart, inEnd;

        /// <summary>Whole frames that go out with the next write.</summary>
        private readonly byte[] outbox = new byte[BufferBytes];
        private int outEnd;
        private bool closed;

        internal Link(Stream input, Stream output)
        {
            this.input = input;
            this.output = output;
        }

        /// <summary>Held while frames are put and written.</summary>
        internal object Lock { get; } = new object();

        internal long FrameBytesMax { get; set; } = 1 << 30;

        /// <summary>When something was last written, in milliseconds of <c>Environment.TickCount</c>.</summary>
        internal int WrittenAt { get; private set; } = Environment.TickCount;

        // ---- in

        /// <summary>Waits for more; false: the other side is gone.</summary>
        internal bool Fill()
        {
            if (inStart == inEnd) inStart = inEnd = 0;
            else if (inStart > 0)
            {
                Buffer.BlockCopy(inbox, inStart, inbox, 0, inEnd - inStart);
                inEnd -= inStart;
                inStart = 0;
            }
            var count = Read(inbox, inEnd, inbox.Length - inEnd);
            inEnd += count;
            return count > 0;
        }

        private int Read(byte[] into, int at, int count)
        {
            try
            {
                return input.Read(into, at, count);
            }
            catch (IOException)
            {
                return 0; // Reset is gone as well.
            }
        }

        /// <summary>The next whole frame of what has been read. One that is larger than the buffer is waited for.</summary>
        internal bool Next(out Frame frame)
        {
            frame = default;
            if (inEnd - inStart < HeaderBytes) return false;
            var header = inbox.AsSpan(inStart, HeaderBytes);
            long size = BinaryPrimitives.ReadUInt32LittleEndian(header);
            long head = BinaryPrimitives.ReadUInt32LittleEndian(header.Slice(12));
            if (head > size || size > FrameBytesMax)
            {
                throw new ProtocolException("bad frame header " + BitConverter.ToString(inbox, inStart, HeaderBytes));
            }
            if (HeaderBytes + size <= inbox.Length && inEnd - inStart < HeaderBytes + size) return false;
            frame.Kind = header[4];
            frame.Flags = header[5];
            frame.Code = BinaryPrimitives.ReadUInt16LittleEndian(header.Slice(6));
            frame.Id = BinaryPrimitives.ReadUInt32LittleEndian(header.Slice(8));
            inStart += HeaderBytes;
            if (HeaderBytes + size <= inbox.Length)
            {
                frame.Head = new ArraySegment<byte>(inbox, inStart, (int)head);
                frame.Body = new ArraySegment<byte>(inbox, inStart + (int)head, (int)(size - head));
                inStart += (int)size;
                return true;
            }
            frame.Head = Filled(new byte[head]);
            frame.Owned = true;
            // Straight into an array of its size: large bodies are not copied again.
            byte[] body;
            try
            {
                body = new byte[size - head];
            }
            catch (OutOfMemoryException error)
            {
                frame.Lack = error;
                Skip(size - head);
                body = Array.Empty<byte>();
            }
            frame.Body = Filled(body);
            return true;
        }

        private void Skip(long count)
        {
            var there = Math.Min(count, inEnd - inStart);
            inStart += (int)there;
            for (var left = count - there; left > 0;)
            {
                // Nothing of the buffer is wanted any more.
                var read = Read(inbox, 0, (int)Math.Min(left, inbox.Length));
                if (read == 0) throw new EndOfStreamException();
                left -= read;
            }
        }

        private ArraySegment<byte> Filled(byte[] bytes)
        {
            var count = bytes.Length;
            var at = Math.Min(count, inEnd - inStart);
            Buffer.BlockCopy(inbox, inStart, bytes, 0, at);
            inStart += at;
            while (at < count)
            {
                var read = Read(bytes, at, count - at);
                if (read == 0) throw new EndOfStreamException();
                at += read;
            }
            return new ArraySegment<byte>(bytes);
        }

        // ---- out; all of it with the lock held

        /// <summary>Bytes in front of the first frame.</summary>
        internal void PutRaw(byte[] bytes)
        {
            bytes.CopyTo(outbox, outEnd);
            outEnd += bytes.Length;
        }

        /// <summary>Holds a frame until the next write; writes at once what is too large to be held.</summary>
        internal void Put(byte kind, byte flags, ushort code, uint id, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body)
        {
            var size = head.Length + body.Length;
            if (outEnd + HeaderBytes + size > outbox.Length) Flush();
            if (HeaderBytes + size <= outbox.Length)
            {
                Header(kind, flags, code, id, head.Length, size);
                Append(head);
                Append(body);
                return;
            }
            Header(kind, flags, code, id, head.Length, size);
            var fits = HeaderBytes + head.Length <= outbox.Length;
            if (fits) Append(head);
            Flush();
            if (!fits) Write(head);
            Write(body);
        }

        private void Append(ReadOnlySpan<byte> bytes)
        {
            bytes.CopyTo(outbox.AsSpan(outEnd));
            outEnd += bytes.Length;
        }

        private void Header(byte kind, byte flags, ushort code, uint id, int head, int size)
        {
            var header = outbox.AsSpan(outEnd, HeaderBytes);
            BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)size);
            header[4] = kind;
            header[5] = flags;
            BinaryPrimitives.WriteUInt16LittleEndian(header.Slice(6), code);
            BinaryPrimitives.WriteUInt32LittleEndian(header.Slice(8), id);
            BinaryPrimitives.WriteUInt32LittleEndian(header.Slice(12), (uint)head);
            outEnd += HeaderBytes;
        }

        /// <summary>Holds an answer, encoded in place if it is small.</summary>
        internal void PutAnswer(uint id, byte flags, Answer answer, uint micros)
        {
            var table = answer.Table();
            var pairs = (ushort)(answer.Pairs == null ? 0 : answer.Pairs.Count / 2);
            var text = answer.Text;
            var bodyMax = text == null ? answer.Bytes.Length : Encoding.UTF8.GetMaxByteCount(text.Length);
            var most = HeaderBytes + 8 + Encoding.UTF8.GetMaxByteCount(table.Length) + (long)bodyMax;
            if (most > outbox.Length)
            {
                var head = new byte[8 + Encoding.UTF8.GetByteCount(table)];
                AnswerHead(head, micros, pairs);
                Encoding.UTF8.GetBytes(table, 0, table.Length, head, 8);
                Put(Kind.Answer, flags, (ushort)answer.Status, id, head, text == null ? answer.Bytes : Encoding.UTF8.GetBytes(text));
                return;
            }
            if (outEnd + most > outbox.Length) Flush();
            var start = outEnd;
            outEnd += HeaderBytes;
            AnswerHead(outbox.AsSpan(outEnd), micros, pairs);
            outEnd += 8;
            outEnd += Encoding.UTF8.GetBytes(table, 0, table.Length, outbox, outEnd);
            var headBytes = outEnd - start - HeaderBytes;
            if (text == null) Append(answer.Bytes);
            else outEnd += Encoding.UTF8.GetBytes(text, 0, text.Length, outbox, outEnd);
            var end = outEnd;
            outEnd = start;
            Header(Kind.Answer, flags, (ushort)answer.Status, id, headBytes, end - start - HeaderBytes);
            outEnd = end;
        }

        private static void AnswerHead(Span<byte> head, uint micros, ushort pairs)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(head, micros);
            BinaryPrimitives.WriteUInt16LittleEndian(head.Slice(4), pairs);
            BinaryPrimitives.WriteUInt16LittleEndian(head.Slice(6), 0);
        }

        internal void Flush()
        {
            var end = outEnd;
            outEnd = 0;
            if (end == 0) return;
            WrittenAt = Environment.TickCount;
            Write(outbox.AsSpan(0, end));
        }

        private void Write(ReadOnlySpan<byte> bytes)
        {
            if (closed) return;
            try
            {
                output.Write(bytes);
            }
            catch (IOException)
            {
                closed = true; // The reading side notices it as well.
            }
        }
    }
}
