-- Makes wrk end with one line for the harness: requests, time, latencies in microseconds, failures.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("load: %d %d %d %d %d %d\n",
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
