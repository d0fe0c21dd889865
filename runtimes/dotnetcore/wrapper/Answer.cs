// What a value that a handler returned means as an answer.

using System;
using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Text;
using Nuclio.Sdk;

namespace Nuclio.Wrapper
{
    internal sealed class Answer
    {
        private const string TextType = "text/plain";
        private const int HeadersMax = ushort.MaxValue; // as many as their count in a frame can say
        private const string NoAckHeader = "x-nuclio-stream-no-ack";

        internal int Status { get; private set; } = 200;

        internal string Type { get; private set; } = TextType;

        /// <summary>Header names and values in turn; null: none.</summary>
        internal List<string> Pairs { get; private set; }

        /// <summary>The body as text; null: <see cref="Bytes"/>.</summary>
        internal string Text { get; private set; } = "";

        internal byte[] Bytes { get; private set; }

        /// <summary>The body as it comes; null: it is there.</summary>
        internal Pieces Pieces { get; private set; }

        internal byte Flags { get; private set; }

        internal static Answer Plain(int status, string text)
        {
            return new Answer { Status = status, Text = text ?? "" };
        }

        /// <summary>Throws what makes the event fail.</summary>
        internal static Answer Of(object value, Action<string> warn)
        {
            switch (value)
            {
                case null:
                    return new Answer();
                case string text:
                    return new Answer { Text = text };
                case Response response:
                    return OfResponse(response, warn);
                default:
                    var answer = new Answer();
                    answer.SetContent(value);
                    return answer;
            }
        }

        private static Answer OfResponse(Response response, Action<string> warn)
        {
            var answer = new Answer();
            if (!string.IsNullOrEmpty(response.ContentType)) answer.Type = WithoutNul(response.ContentType);
            answer.Status = response.StatusCode == 0 ? 200 : response.StatusCode;
            if (answer.Status < 100 || answer.Status > 999)
            {
                throw new InvalidOperationException(
                    "the answer's status is " + answer.Status + ", want an integer from 100 to 999");
            }
            if (response.Content != null) answer.SetContent(response.Content);
            else answer.SetText(response.Body ?? "", response.BodyEncoding);
            foreach (var header in response.Headers ?? new Dictionary<string, object>()) answer.AddHeader(header.Key, header.Value, warn);
            if (answer.Pairs != null && answer.Pairs.Count / 2 > HeadersMax)
            {
                throw new InvalidOperationException(
                    "the answer has " + answer.Pairs.Count / 2 + " headers, want at most " + HeadersMax);
            }
            return answer;
        }

        private void SetText(string body, string encoding)
        {
            if (string.IsNullOrEmpty(encoding) || encoding == "text")
            {
                Text = body;
            }
            else if (encoding == "base64")
            {
                Text = null;
                Bytes = Convert.FromBase64String(body);
            }
            else
            {
                throw new InvalidOperationException("Unknown body encoding - \"" + encoding + "\"");
            }
        }

        private void SetContent(object value)
        {
            if (value is byte[] bytes)
            {
                Text = null;
                Bytes = bytes;
                return;
            }
            Pieces = Pieces.Of(value);
            if (Pieces == null) Text = value.ToString() ?? "";
        }

        private void AddHeader(string name, object value, Action<string> warn)
        {
            if (string.Equals(name, NoAckHeader, StringComparison.OrdinalIgnoreCase))
            {
                if (string.Equals(Shown(value), "true", StringComparison.OrdinalIgnoreCase) || Shown(value) == "1") Flags |= Flag.NoAck;
                return;
            }
            if (value is byte[] bytes)
            {
                AddPair(name, Encoding.UTF8.GetString(bytes), warn);
            }
            else if (value is IEnumerable many && !(value is string))
            {
                if (value is IDictionary) return; // No text says what it means.
                foreach (var one in many) AddPair(name, one, warn);
            }
            else
            {
                AddPair(name, value, warn);
            }
        }

        private void AddPair(string name, object value, Action<string> warn)
        {
            if (value == null) return;
            var text = Shown(value);
            if (name.IndexOf('\0') >= 0 || text.IndexOf('\0') >= 0)
            {
                warn("Dropped a header with a NUL byte");
                return;
            }
            Pairs = Pairs ?? new List<string>();
            Pairs.Add(name);
            Pairs.Add(text);
        }

        /// <summary>Numbers and truth values as JSON writes them, whatever the culture is.</summary>
        private static string Shown(object value)
        {
            if (value is bool truth) return truth ? "true" : "false";
            return Convert.ToString(value, CultureInfo.InvariantCulture) ?? "";
        }

        private static string WithoutNul(string text)
        {
            return text.Replace("\0", "");
        }

        /// <summary>Type and headers, joined by NULs.</summary>
        internal string Table()
        {
            return Pairs == null ? Type : Type + "\0" + string.Join("\0", Pairs);
        }

        /// <summary>Collects a body that comes in pieces, for protocol 1, which knows no streams.</summary>
        internal void Collect()
        {
            if (Pieces == null) return;
            var all = new MemoryStream();
            using (var pieces = Pieces)
            {
                pieces.Begin(default);
                for (var piece = pieces.Next().GetAwaiter().GetResult(); piece != null; piece = pieces.Next().GetAwaiter().GetResult())
                {
                    all.Write(piece.Value.Span);
                }
            }
            Pieces = null;
            Text = null;
            Bytes = all.ToArray();
        }
    }
}
