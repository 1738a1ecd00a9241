-- What wrk sends, and a line of JSON for what it measured: arguments as `post=BYTES` and `pipeline=N`.

function init(arguments)
    local options = {}
    for _, argument in ipairs(arguments) do
        local name, value = argument:match("^(%w+)=(%d+)$")
        options[name] = tonumber(value)
    end
    if options.post then
        wrk.method = "POST"
        wrk.body = string.rep("x", options.post)
    end
    if options.pipeline then
        local requests = string.rep(wrk.format(), options.pipeline)
        request = function() return requests end
    end
end

function done(summary, latency, _)
    local errors = summary.errors
    print(string.format(
        '{"messages": %d, "seconds": %.6f, "errors": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d}',
        summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
