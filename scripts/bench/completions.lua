-- Completions with random prompts and adapters, for wrk; says tokens a second and statuses at the end.
--
--     PREFIXD_KEY=... MODELS=sentiment,pirate WORDS=32 MAX_TOKENS=32 \
--         wrk -t1 -c16 -d30s --timeout 60s -s scripts/bench/completions.lua http://127.0.0.1:8080
--
-- All variables may be missing: no key, the base model (""), 32 words, 32 tokens. Answers come whole, so
-- wrk's latency is that of whole requests; scripts/loadtest/loadtest.py times streams token by token.

local words = {}
for word in ([[time year people way day man thing woman life child world school state family student
    group country problem hand part place case week company system program question work number night
    point home water room mother area money story fact month lot right study book eye job]]):gmatch("%a+") do
    words[#words + 1] = word
end

local models = {}
for model in (os.getenv("MODELS") or ""):gmatch("[^,]+") do
    models[#models + 1] = model
end
local n_words = tonumber(os.getenv("WORDS") or 32)
local max_tokens = tonumber(os.getenv("MAX_TOKENS") or 32)

local headers = { ["Content-Type"] = "application/json" }
if os.getenv("PREFIXD_KEY") then
    headers["Authorization"] = "Bearer " .. os.getenv("PREFIXD_KEY")
end

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
    thread:set("number", #threads)
end

-- What each thread counts; `done` reads it by name, so it is global there.
function init()
    math.randomseed(os.time() * 64 + number)
    tokens, statuses = 0, ""
    seen = {}
end

function request()
    local prompt = {}
    for i = 1, n_words do
        prompt[i] = words[math.random(#words)]
    end
    local model = #models > 0 and models[math.random(#models)] or ""
    local body = string.format(
        '{"model": "%s", "prompt": "%s", "max_tokens": %d, "temperature": 0, "ignore_eos": true}',
        model, table.concat(prompt, " "), max_tokens)
    return wrk.format("POST", "/v1/completions", headers, body)
end

function response(status, _, body)
    seen[status] = (seen[status] or 0) + 1
    tokens = tokens + (tonumber(body:match('"completion_tokens":%s*(%d+)')) or 0)
    statuses = ""
    for code, n in pairs(seen) do
        statuses = statuses .. string.format(" %d: %d", code, n)
    end
end

function done(summary)
    local all = 0
    for i, thread in ipairs(threads) do
        all = all + thread:get("tokens")
        print(string.format("thread %d, answers by status:%s", i, thread:get("statuses")))
    end
    print(string.format("%d tokens, %.1f tok/s", all, all / (summary.duration / 1e6)))
end
