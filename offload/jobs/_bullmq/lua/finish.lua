--@include common placing ending claiming
--@bullmq finish moveToFinished-14
--@bullmq take moveToActive-11
--@bullmq retry retryJob-11
--@bullmq delay moveToDelayed-11
-- End attempts, and claim. ARGV: how many; of each queue, id, token, kind of ending, its outcome,
-- what it adds to attempts and to crashes, result or message, error, stack, delay in us; then as
-- for `claim`, or nothing. Return 1 or 0, fenced, for each, and the claims.
--
-- The decisions are those of `offload.jobs._decisions.settle`.
local WORDS = 11

local function retry(b, id, token, kind, delay, attempts)
  if kind == "delay" then
    local due = now_us + tonumber(delay)
    bull_delay({b .. "marker", b .. "active", b .. "prioritized", b .. "delayed", b .. id,
      b .. "events", b .. "meta", b .. "stalled", b .. "wait", b .. "limiter", b .. "pc"},
      {b, text(now), id, token, text(math.ceil(due / 1000) - now), "1", "", "0"})
    redis.call("HSET", b .. id, "o:due", text(due), "atm", attempts)
  else
    bull_retry({b .. "active", b .. "wait", b .. "paused", b .. id, b .. "meta", b .. "events",
      b .. "delayed", b .. "prioritized", b .. "pc", b .. "marker", b .. "stalled"},
      {b, text(now), "LPUSH", id, token})
    redis.call("HSET", b .. id, "atm", attempts, "o:position", next_number())
  end
end

local function release(b, id)
  redis.call("LREM", b .. "active", -1, id)
  redis.call("DEL", b .. id .. ":lock")
  redis.call("SREM", b .. "stalled", id)
  put_back(b, id)
end

-- End the attempt whose words are at `at`; its claim is valid.
local function finish(at, b, queue, id, token)
  local kind, value, error = ARGV[at + 3], ARGV[at + 7], ARGV[at + 8]
  local found = redis.call("HMGET", b .. id, "atm", "o:cancel", "failedReason", "o:keep")
  if kind == "complete" then
    if found[2] or found[3] then
      redis.call("HDEL", b .. id, "o:cancel", "o:error", "failedReason", "stacktrace")
    end
    return over(queue, id, token, "completed", "returnvalue", value, nil, found[4])
  end
  local attempts = tonumber(found[1] or 0) + tonumber(ARGV[at + 5])
  keep_attempt(b, id, ARGV[at + 4], error)
  if ARGV[at + 6] ~= "0" then
    redis.call("HINCRBY", b .. id, "o:crashes", ARGV[at + 6])
  end
  if error ~= "" then
    keep_error(b, id, value, error, ARGV[at + 9])
  end
  if kind == "fail" then
    redis.call("HDEL", b .. id, "o:cancel")
    over(queue, id, token, "failed", "failedReason", value, attempts)
  elseif kind == "cancel" or found[2] then
    cancel_active(queue, id, token, attempts)
  elseif kind == "release" then
    release(b, id)
  else
    retry(b, id, token, kind, ARGV[at + 10], attempts)
  end
end

local stored = {}
for number = 1, tonumber(ARGV[2]) do
  local at = 3 + (number - 1) * WORDS
  local queue, id, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local b = base(queue)
  local is_valid, is_locked = holds(b, id, token)
  if is_valid then
    if not is_locked then
      lock(b, id, token)
    end
    finish(at, b, queue, id, token)
  end
  stored[number] = is_valid and 1 or 0
end
local following = 3 + #stored * WORDS
if #ARGV >= following then
  return {stored, claim(following)}
end
return {stored}
