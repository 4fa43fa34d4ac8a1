--@include common placing ending claiming
--@bullmq finish moveToFinished-14
--@bullmq take moveToActive-11
--@bullmq retry retryJob-11
--@bullmq delay moveToDelayed-11
-- End an attempt, and claim. ARGV: queue, id, token, kind of ending, its outcome, what it adds to
-- attempts and to crashes, result or message, error, stack, delay in us, then as for `claim`, or
-- nothing. Return 1 or 0, fenced, and the claims.
--
-- The decisions are those of `offload.jobs._decisions.settle`.
local queue, id, token, kind, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local value, error, stack = ARGV[9], ARGV[10], ARGV[11]
local b = base(queue)

local function retry(attempts)
  if kind == "delay" then
    local due = now_us + tonumber(ARGV[12])
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

local function release()
  redis.call("LREM", b .. "active", -1, id)
  redis.call("DEL", b .. id .. ":lock")
  redis.call("SREM", b .. "stalled", id)
  put_back(b, id)
end

local function finish()
  local found = redis.call("HMGET", b .. id, "atm", "o:cancel", "failedReason")
  if kind == "complete" then
    if found[2] or found[3] then
      redis.call("HDEL", b .. id, "o:cancel", "o:error", "failedReason", "stacktrace")
    end
    return over(queue, id, token, "completed", "returnvalue", value)
  end
  local attempts = tonumber(found[1] or 0) + tonumber(ARGV[7])
  keep_attempt(b, id, outcome, error)
  if ARGV[8] ~= "0" then
    redis.call("HINCRBY", b .. id, "o:crashes", ARGV[8])
  end
  if error ~= "" then
    keep_error(b, id, value, error, stack)
  end
  if kind == "fail" then
    redis.call("HDEL", b .. id, "o:cancel")
    over(queue, id, token, "failed", "failedReason", value, attempts)
  elseif kind == "cancel" or found[2] then
    cancel_active(queue, id, token, attempts)
  elseif kind == "release" then
    release()
  else
    retry(attempts)
  end
end

local stored = 0
local is_valid, is_locked = holds(b, id, token)
if is_valid then
  if not is_locked then
    lock(b, id, token)
  end
  finish()
  stored = 1
end
if #ARGV > 12 then
  return {stored, claim(13)}
end
return {stored}
