using System.Runtime.CompilerServices;

// The shim is the only one that looks inside.
[assembly: InternalsVisibleTo("wrapper")]
