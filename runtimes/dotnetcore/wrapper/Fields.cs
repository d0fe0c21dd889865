// The fields of a log record as JSON: whatever the values are, and however large.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Nuclio.Wrapper
{
    /// <summary>What exceptions say, whatever their own members do: some throw themselves.</summary>
    internal static class Said
    {
        internal static string Message(Exception error)
        {
            return Of(error, () => error.Message);
        }

        internal static string All(Exception error)
        {
            return Of(error, () => error.ToString());
        }

        private static string Of(Exception error, Func<string> text)
        {
            try
            {
                return text() ?? "";
            }
            catch (Exception)
            {
                return error.GetType().FullName;
            }
        }
    }

    internal static class Fields
    {
        private const int AllMax = 256 * 1024; // characters of all fields of a record
        private const int OneMax = 4 * 1024; // of one, where all are too long

        private static readonly JsonSerializerOptions Options = new JsonSerializerOptions
        {
            Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        };

        internal static string Json(Dictionary<string, object> fields)
        {
            var names = new List<string>(fields.Count);
            var values = new List<string>(fields.Count);
            var length = 0;
            foreach (var field in fields)
            {
                names.Add(Quoted(field.Key));
                values.Add(ValueJson(field.Value));
                length += names[names.Count - 1].Length + values[values.Count - 1].Length;
            }
            var json = new StringBuilder("{");
            for (var at = 0; at < names.Count; at++)
            {
                var value = values[at];
                if (length > AllMax && value.Length > OneMax)
                {
                    value = Quoted(value.Substring(0, OneMax) + "... (" + value.Length + " characters)");
                }
                if (json.Length + names[at].Length + value.Length > AllMax) break;
                if (at > 0) json.Append(',');
                json.Append(names[at]).Append(':').Append(value);
            }
            return json.Append('}').ToString();
        }

        internal static string Quoted(string text)
        {
            // Halves of surrogate pairs become U+FFFD, which JSON can hold.
            return JsonSerializer.Serialize(Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text)), Options);
        }

        private static string ValueJson(object value)
        {
            try
            {
                switch (value)
                {
                    case null:
                        return "null";
                    case string text:
                        return Quoted(text);
                    case Exception error:
                        return Quoted(Said.All(error));
                    case Type type:
                        return Quoted(type.ToString());
                    default:
                        return JsonSerializer.Serialize(value, value.GetType(), Options);
                }
            }
            catch (Exception)
            {
                return Quoted(Described(value)); // A cycle, a property that throws, a number that JSON does not have.
            }
        }

        private static string Described(object value)
        {
            try
            {
                return Convert.ToString(value, CultureInfo.InvariantCulture) ?? "";
            }
            catch (Exception error)
            {
                return Said.All(error);
            }
        }
    }
}
