// Runs a user's .NET handler for the processor, which started this program as a child process.
//
// Reading order: `Program`; `Shim` (protocol 2: frames of `Link`, one `Call` per event) or `Lines` (protocol 1); `Handler`
// (finds the user's method), `Answer` (what a value means), `Pieces` (streams).

using System;
using System.IO;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Nuclio.Wrapper
{
    internal static class Program
    {
        private const string DescriptorVariable = "NUCLIO_SHIM_FD";
        private const string SocketVariable = "NUCLIO_SHIM_SOCKET";

        private static int Main(string[] arguments)
        {
            var descriptor = Taken(DescriptorVariable);
            var path = Taken(SocketVariable);
            Console.CancelKeyPress += (_, pressed) => pressed.Cancel = true; // A terminal sends it to everybody.
            if (descriptor != null && int.TryParse(descriptor, out var number))
            {
                Descriptors.KeepFromChildren(number);
                var handle = new SafeFileHandle((IntPtr)number, false);
                // Two streams, so that reading never waits for writing.
                return new Shim(new Link(OneWay(handle, FileAccess.Read), OneWay(handle, FileAccess.Write))).Run();
            }
            if (path != null)
            {
                var stream = Connected(path);
                return new Shim(new Link(stream, stream)).Run();
            }
            if (arguments.Length == 1) return new Lines(Connected(arguments[0])).Run();
            Console.Error.WriteLine(
                "nuclio shim: neither NUCLIO_SHIM_FD nor NUCLIO_SHIM_SOCKET is set (protocol 2), nor is there one argument, " +
                "the path of a socket (protocol 1)");
            return 2;
        }

        /// <summary>A variable that the handler and its children need not see.</summary>
        private static string Taken(string variable)
        {
            var value = Environment.GetEnvironmentVariable(variable);
            Environment.SetEnvironmentVariable(variable, null);
            return string.IsNullOrEmpty(value) ? null : value;
        }

        /// <summary>Unbuffered: each call is one of the system's. Sockets cannot be made of descriptors before .NET 5.</summary>
        private static Stream OneWay(SafeFileHandle handle, FileAccess access)
        {
            return new FileStream(handle, access, 1, false);
        }

        private static Stream Connected(string path)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            return new NetworkStream(socket, true);
        }
    }

    /// <summary>What the framework has no call for.</summary>
    internal static class Descriptors
    {
        private const int SetFlags = 2; // F_SETFD of every Linux
        private const int CloseOnExec = 1;

        /// <summary>A child that held the socket would keep the processor from seeing our end.</summary>
        internal static void KeepFromChildren(int descriptor)
        {
            try
            {
                FileControl(descriptor, SetFlags, CloseOnExec);
            }
            catch (Exception error) when (error is DllNotFoundException || error is EntryPointNotFoundException)
            {
                // Children have one descriptor more.
            }
        }

        [DllImport("libc", EntryPoint = "fcntl")]
        private static extern int FileControl(int descriptor, int command, int value);
    }
}
