using System;
using System.Collections.Generic;
using System.Globalization;

namespace Nuclio.Sdk
{
    /// <summary>Writes records into the log of the processor. Any thread may use it.</summary>
    public class Logger
    {
        internal const int DebugLevel = 0, InfoLevel = 1, WarningLevel = 2, ErrorLevel = 3;

        private static readonly string[] Names = { "debug", "info", "warning", "error" };

        /// <summary>Raised for each record, with the logger as its sender, which holds the record.</summary>
        public event EventHandler LogEvent;

        /// <summary>Level of the last record: <c>error</c>, <c>warning</c>, <c>info</c> or <c>debug</c>.</summary>
        public string Level { get; set; }

        /// <summary>Message of the last record.</summary>
        public string Message { get; set; }

        /// <summary>Time of the last record, UTC.</summary>
        public string DateTime { get; set; }

        /// <summary>Fields of the last record.</summary>
        public Dictionary<string, object> With { get; set; }

        /// <summary>Where records go; null: nowhere.</summary>
        internal ILogSink Sink { get; set; }

        /// <summary>Something has failed. The format is that of <c>string.Format</c>.</summary>
        public void Error(string format, params object[] args)
        {
            Write(ErrorLevel, format, args);
        }

        /// <summary>Something is odd.</summary>
        public void Warning(string format, params object[] args)
        {
            Write(WarningLevel, format, args);
        }

        /// <summary>For whoever looks for a mistake.</summary>
        public void Debug(string format, params object[] args)
        {
            Write(DebugLevel, format, args);
        }

        /// <summary>Something has happened.</summary>
        public void Info(string format, params object[] args)
        {
            Write(InfoLevel, format, args);
        }

        /// <summary>Something has failed: a message, and names and values in turn.</summary>
        public void ErrorWith(string message, params object[] with)
        {
            WriteWith(ErrorLevel, message, with);
        }

        /// <summary>Something is odd.</summary>
        public void WarnWith(string message, params object[] with)
        {
            WriteWith(WarningLevel, message, with);
        }

        /// <summary>For whoever looks for a mistake.</summary>
        public void DebugWith(string message, params object[] with)
        {
            WriteWith(DebugLevel, message, with);
        }

        /// <summary>Something has happened.</summary>
        public void InfoWith(string message, params object[] with)
        {
            WriteWith(InfoLevel, message, with);
        }

        private void Write(int level, string format, object[] args)
        {
            if (Wanted(level)) Put(level, string.Format(CultureInfo.CurrentCulture, format ?? "", args ?? new object[1]), null);
        }

        private void WriteWith(int level, string message, object[] with)
        {
            if (!Wanted(level)) return;
            var fields = new Dictionary<string, object>();
            for (var at = 0; with != null && at < with.Length; at += 2)
            {
                // A value that is missing at the end is null.
                fields[Convert.ToString(with[at], CultureInfo.InvariantCulture)] = at + 1 < with.Length ? with[at + 1] : null;
            }
            Put(level, message ?? "", fields);
        }

        private bool Wanted(int level)
        {
            return LogEvent != null || Sink != null && Sink.Wants(level);
        }

        private void Put(int level, string message, Dictionary<string, object> fields)
        {
            var now = System.DateTime.UtcNow;
            var listeners = LogEvent;
            if (listeners != null)
            {
                lock (this)
                {
                    Level = Names[level];
                    Message = message;
                    DateTime = now.ToString("o", CultureInfo.InvariantCulture);
                    With = fields ?? new Dictionary<string, object>();
                    listeners(this, EventArgs.Empty);
                }
            }
            if (Sink != null && Sink.Wants(level)) Sink.Put(level, now, message, fields);
        }
    }

    /// <summary>Takes records.</summary>
    internal interface ILogSink
    {
        bool Wants(int level);

        void Put(int level, DateTime time, string message, Dictionary<string, object> fields);
    }
}
