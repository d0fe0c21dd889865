// Bodies that come piece by piece: streams and asynchronous sequences.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Nuclio.Wrapper
{
    internal abstract class Pieces : IDisposable
    {
        /// <summary>Null: the value is no stream.</summary>
        internal static Pieces Of(object value)
        {
            if (value is Stream stream) return new OfStream(stream);
            var sequence = value.GetType().GetInterfaces().FirstOrDefault(IsSequence);
            if (sequence == null) return null;
            var type = typeof(OfSequence<>).MakeGenericType(sequence.GetGenericArguments());
            return (Pieces)Activator.CreateInstance(type, value);
        }

        private static bool IsSequence(Type type)
        {
            return type.IsGenericType && type.GetGenericTypeDefinition() == typeof(IAsyncEnumerable<>);
        }

        /// <summary>Before the first. The token is what sequences see that ask for one.</summary>
        internal virtual void Begin(CancellationToken token)
        {
        }

        /// <summary>The next one; null: there are no more. Empty ones are left out by whoever sends them.</summary>
        internal abstract Task<ReadOnlyMemory<byte>?> Next();

        /// <summary>Ends what is not wanted any more. Not while <see cref="Next"/> runs.</summary>
        public abstract void Dispose();

        private static ReadOnlyMemory<byte> BytesOf(object item)
        {
            switch (item)
            {
                case null:
                    return default;
                case byte[] bytes:
                    return bytes;
                case ReadOnlyMemory<byte> memory:
                    return memory;
                case Memory<byte> memory:
                    return memory;
                case ArraySegment<byte> segment:
                    return segment;
                default:
                    return Encoding.UTF8.GetBytes(Convert.ToString(item, CultureInfo.InvariantCulture) ?? "");
            }
        }

        private sealed class OfStream : Pieces
        {
            private readonly Stream stream;
            private readonly byte[] buffer = new byte[64 * 1024];

            internal OfStream(Stream stream)
            {
                this.stream = stream;
            }

            internal override async Task<ReadOnlyMemory<byte>?> Next()
            {
                var count = await stream.ReadAsync(buffer, 0, buffer.Length).ConfigureAwait(false);
                if (count == 0) return null;
                return new ReadOnlyMemory<byte>(buffer, 0, count);
            }

            public override void Dispose()
            {
                stream.Dispose();
            }
        }

        private sealed class OfSequence<T> : Pieces
        {
            private readonly IAsyncEnumerable<T> sequence;
            private IAsyncEnumerator<T> items;

            public OfSequence(IAsyncEnumerable<T> sequence)
            {
                this.sequence = sequence;
            }

            internal override void Begin(CancellationToken token)
            {
                items = sequence.GetAsyncEnumerator(token);
            }

            internal override async Task<ReadOnlyMemory<byte>?> Next()
            {
                if (!await items.MoveNextAsync().ConfigureAwait(false)) return null;
                return BytesOf(items.Current);
            }

            public override void Dispose()
            {
                items?.DisposeAsync().AsTask().GetAwaiter().GetResult();
            }
        }
    }
}
