-- Makes wrk end with one line for the harness: requests, time, failures, and 1000 latencies, all in microseconds.
function done(summary, latency)
  local errors = summary.errors
  local line = {string.format("load: %d %d %d", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout)}
  for place = 1, 1000 do
    line[#line + 1] = string.format("%d", latency:percentile(place / 10 - 0.05))
  end
  io.write(table.concat(line, " "), "\n")
end
