using System;
using System.Collections.Generic;
using System.Text;
using System.Threading;

namespace Nuclio.Sdk
{
    /// <summary>What has happened: a request, a message, a timer.</summary>
    public class Event
    {
        /// <summary>The body as it came; empty if there is none.</summary>
        public byte[] Body { get; set; }

        /// <summary>Type of the body.</summary>
        public string ContentType { get; set; }

        /// <summary>Headers by their exact names.</summary>
        public Dictionary<string, object> Headers { get; set; }

        /// <summary>Fields of the query.</summary>
        public Dictionary<string, object> Fields { get; set; }

        /// <summary>Bytes of the body as it came.</summary>
        public long Size { get; set; }

        /// <summary>Differs from event to event.</summary>
        public string Id { get; set; }

        /// <summary>Method of the request.</summary>
        public string Method { get; set; }

        /// <summary>Path of the request.</summary>
        public string Path { get; set; }

        /// <summary>Empty for requests.</summary>
        public string Url { get; set; }

        /// <summary>Version of a cloud event's format.</summary>
        public string Version { get; set; }

        /// <summary>Type of a cloud event.</summary>
        public string Type { get; set; }

        /// <summary>Version of a cloud event's type; null for other events.</summary>
        public string TypeVersion { get; set; }

        /// <summary>When it happened, UTC.</summary>
        public DateTime Timestamp { get; set; }

        /// <summary>Where it came from.</summary>
        public Trigger Trigger { get; set; }

        /// <summary>
        /// Cancelled when the client has left or the deadline has passed. Not in the published SDK. The first use of it by a
        /// handler that is not asynchronous costs a thread.
        /// </summary>
        public CancellationToken CancellationToken
        {
            get { return Cancellation == null ? CancellationToken.None : Cancellation.Token; }
        }

        internal ICancellation Cancellation { get; set; }

        /// <summary>The body as text in UTF-8; bytes that are none become U+FFFD.</summary>
        public string GetBody()
        {
            return Body == null ? string.Empty : Encoding.UTF8.GetString(Body);
        }

        /// <summary>Sets the body to text in UTF-8.</summary>
        public void SetBody(string body)
        {
            Body = Encoding.UTF8.GetBytes(body ?? string.Empty);
        }
    }

    /// <summary>Where an event came from.</summary>
    public class Trigger
    {
        /// <summary>Always null.</summary>
        public string Class { get; set; }

        /// <summary>Kind of the trigger, for example <c>http</c>.</summary>
        public string Kind { get; set; }
    }

    /// <summary>What a worker reports of an event.</summary>
    public class Metric
    {
        /// <summary>Seconds in the handler.</summary>
        public double Duration { get; set; }
    }

    /// <summary>Makes the token of an event when somebody asks for it.</summary>
    internal interface ICancellation
    {
        CancellationToken Token { get; }
    }
}
