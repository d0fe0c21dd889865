using System;
using System.Collections.Generic;
using System.Threading.Tasks;

namespace Nuclio.Sdk
{
    /// <summary>What outlives an event: one per worker, given to the handler with each event.</summary>
    public class Context
    {
        /// <summary>A context of nothing, for tests of handlers.</summary>
        public Context()
        {
            Logger = new Logger();
            UserData = new Dictionary<string, object>();
        }

        /// <summary>Name of the function.</summary>
        public string Name { get; set; }

        /// <summary>Writes records into the log of the processor.</summary>
        public Logger Logger { get; set; }

        /// <summary>Whether <c>InitContext</c> has run.</summary>
        public bool IsInitialized { get; set; }

        /// <summary>Whatever the handler keeps from event to event. Several events at a time share it.</summary>
        public Dictionary<string, object> UserData { get; set; }

        /// <summary>Place of the worker among those of its trigger, from 0. Not in the published SDK.</summary>
        public int WorkerId { get; set; }

        /// <summary>Version of the function. Not in the published SDK.</summary>
        public string Version { get; set; }

        /// <summary>Name of the worker's trigger. Not in the published SDK.</summary>
        public string TriggerName { get; set; }

        internal Func<Task> OnTermination { get; private set; }

        internal Func<Task> OnDrain { get; private set; }

        /// <summary>Sets what runs when the processor stops, after the last event. Not in the published SDK.</summary>
        public void SetTerminationCallback(Action callback)
        {
            OnTermination = Wrapped(callback);
        }

        /// <summary>The same, awaited.</summary>
        public void SetTerminationCallback(Func<Task> callback)
        {
            OnTermination = callback;
        }

        /// <summary>Sets what runs when the worker is drained: no event comes until it goes on. Not in the published SDK.</summary>
        public void SetDrainCallback(Action callback)
        {
            OnDrain = Wrapped(callback);
        }

        /// <summary>The same, awaited.</summary>
        public void SetDrainCallback(Func<Task> callback)
        {
            OnDrain = callback;
        }

        private static Func<Task> Wrapped(Action callback)
        {
            if (callback == null) return null;
            return () =>
            {
                callback();
                return Task.CompletedTask;
            };
        }
    }
}
