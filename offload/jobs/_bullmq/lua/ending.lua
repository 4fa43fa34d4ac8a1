-- How attempts and jobs end. Needs `bull_finish`, BullMQ's moveToFinished.

-- Note the end of an attempt. Most attempts complete, and have no line of their own: the fields of
-- their job tell it.
local function keep_attempt(b, id, outcome, error)
  local found = redis.call("HMGET", b .. id, "o:history", "processedOn", "pb")
  local line = cjson.encode({outcome, tonumber(found[2]) or now, now, found[3] or "", error or ""})
  local history = found[1] and found[1] .. "\n" .. line or line
  -- The hundred latest ones; counted only where there may be more.
  if #history > 5000 then
    local _, breaks = string.gsub(history, "\n", "\n")
    while breaks >= 100 do
      history = string.sub(history, string.find(history, "\n", 1, true) + 1)
      breaks = breaks - 1
    end
  end
  redis.call("HSET", b .. id, "o:history", history)
end

local function keep_error(b, id, message, error, stack)
  redis.call("HSET", b .. id, "failedReason", message, "o:error", error, "stacktrace", stack)
end

-- What BullMQ removes at once by the options of a producer that is not ours.
local function kept(b, id, target)
  local options = redis.call("HGET", b .. id, "opts")
  local option = options and cjson.decode(options)[target == "completed" and "removeOnComplete" or
    "removeOnFail"]
  if type(option) == "table" then
    return option
  elseif type(option) == "number" then
    return {count = option}
  end
  return {count = option == true and 0 or -1}
end

-- Move an active job to `completed` or `failed`, by BullMQ. Its lock must be there, with `token`.
-- `attempts`: what its counter is then, instead of one more. `keep`: its `o:keep`, if that is known.
local function over(queue, id, token, target, field, value, attempts, keep)
  local b = base(queue)
  if keep == nil then
    keep = redis.call("HGET", b .. id, "o:keep")
  end
  local options = cmsgpack.pack({token = token, keepJobs = keep and {count = -1} or
    kept(b, id, target), attempts = 1, attemptsMade = 0, maxMetricsSize = "", lockDuration = 1})
  local result = bull_finish(
    {b .. "wait", b .. "active", b .. "prioritized", b .. "events", b .. "stalled", b .. "limiter",
      b .. "delayed", b .. "paused", b .. "meta", b .. "pc", b .. target, b .. id,
      b .. "metrics:" .. target, b .. "marker"},
    {id, text(now), field, value, target, "", b, options})
  if type(result) == "number" and result < 0 then
    redis.call("DEL", b .. id .. ":lock")
    return result
  end
  if keep then
    if keep ~= "" then
      redis.call("ZADD", ours .. "forget", text(now + tonumber(keep) * 1000), queue .. ":" .. id)
    end
  elseif redis.call("EXISTS", b .. id) == 0 then
    redis.call("ZREM", ours .. "jobs", queue .. ":" .. id)
    return 0
  end
  if attempts then
    redis.call("HSET", b .. id, "atm", attempts)
  end
  return 0
end

local function lock(b, id, token)
  redis.call("SET", b .. id .. ":lock", token)
end

local CANCELLED = "cancelled"

local function cancel_active(queue, id, token, attempts)
  redis.call("HSET", base(queue) .. id, "o:cancelled", "1")
  redis.call("HDEL", base(queue) .. id, "o:cancel")
  return over(queue, id, token, "failed", "failedReason", CANCELLED, attempts)
end

-- End a job that has not begun, by making it active for no time. Counts nothing.
local function end_unstarted(queue, id, message, error)
  local b = base(queue)
  local attempts = redis.call("HGET", b .. id, "atm") or 0
  take_out(b, id)
  redis.call("LPUSH", b .. "active", id)
  redis.call("HDEL", b .. id, "o:due")
  lock(b, id, "offload")
  if error then
    keep_error(b, id, message, error, "[]")
  else
    redis.call("HSET", b .. id, "o:cancelled", "1")
  end
  return over(queue, id, "offload", "failed", "failedReason", message, attempts)
end


-- The deadline of a job has passed before an attempt could begin.
local function expire(queue, id, deadline)
  local b = base(queue)
  local message = "the deadline " .. deadline .. " passed before an attempt could begin"
  local last = redis.call("HGET", b .. id, "o:error")
  if last then
    local error = cjson.decode(last)
    message = message .. "; the last one failed with " .. error[1] .. ": " .. error[2]
  end
  end_unstarted(queue, id, message,
    cjson.encode({"offload.errors.DeadlineError", message, ""}))
end

-- A deadline is kept as `milliseconds text`. Return the text if it has passed.
local function passed(deadline)
  if deadline then
    local ms, words = string.match(deadline, "^(%-?%d+) (.*)$")
    if ms and tonumber(ms) <= now then
      return words
    end
  end
end
