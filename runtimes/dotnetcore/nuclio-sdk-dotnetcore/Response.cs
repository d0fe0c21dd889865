using System.Collections.Generic;

namespace Nuclio.Sdk
{
    /// <summary>An answer with everything. What is left out: status 200, text/plain, no headers, an empty body.</summary>
    public class Response
    {
        /// <summary>The body as text.</summary>
        public string Body { get; set; }

        /// <summary>Type of the body.</summary>
        public string ContentType { get; set; }

        /// <summary><c>text</c>, or <c>base64</c> if the body is bytes in that form.</summary>
        public string BodyEncoding { get; set; }

        /// <summary>Status, 100 to 999.</summary>
        public int StatusCode { get; set; }

        /// <summary>Headers. A list becomes a header that is repeated; null is left out.</summary>
        public Dictionary<string, object> Headers { get; set; }

        /// <summary>
        /// Used instead of <see cref="Body"/> unless null: a byte array as it is; a <c>System.IO.Stream</c> or an
        /// <c>IAsyncEnumerable</c> is sent piece by piece. Not in the published SDK.
        /// </summary>
        public object Content { get; set; }
    }
}
