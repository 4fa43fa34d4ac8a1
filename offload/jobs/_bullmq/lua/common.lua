-- What every script of ours begins with. ARGV[1] is the prefix of all keys.
--
-- Time is the server's, the same for every machine. Numbers become text by `text`, since Lua
-- writes large ones as 1e+15.
local prefix = ARGV[1]
local ours = prefix .. "-offload:"
local clock = redis.call("TIME")
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = math.floor(now_us / 1000)

local function text(number)
  return string.format("%.0f", number)
end

local function base(queue)
  return prefix .. ":" .. queue .. ":"
end

local function tell(b, kind, id)
  redis.call("XADD", b .. "events", "MAXLEN", "~", 10000, "*", "event", kind, "jobId", id)
end

-- Have the queue known to those who look through all of them, and to listeners.
local function register(queue)
  if redis.call("SADD", ours .. "queues", queue) == 1 then
    local last = redis.call("XREVRANGE", base(queue) .. "events", "+", "-", "COUNT", 1)
    redis.call("XADD", ours .. "news", "MAXLEN", "~", 1000, "*",
      "queue", queue, "last", last[1] and last[1][1] or "0-0")
  end
end

-- Return the queue that has a job, and the id that BullMQ knows it by; nil if none has.
-- `raw` is an id that BullMQ itself has counted up, which ours never are.
local function find(id, raw, first)
  if first and redis.call("EXISTS", base(first) .. id) == 1 then
    return first, id
  end
  local queues = redis.call("SMEMBERS", ours .. "queues")
  for _, queue in ipairs(queues) do
    if redis.call("EXISTS", base(queue) .. id) == 1 then
      return queue, id
    end
  end
  if raw and raw ~= "" then
    for _, queue in ipairs(queues) do
      if redis.call("EXISTS", base(queue) .. raw) == 1 then
        return queue, raw
      end
    end
  end
end

local function state_of(b, id)
  if redis.call("ZSCORE", b .. "completed", id) then
    return "completed"
  elseif redis.call("ZSCORE", b .. "failed", id) then
    return redis.call("HEXISTS", b .. id, "o:cancelled") == 1 and "cancelled" or "failed"
  elseif redis.call("ZSCORE", b .. "delayed", id) then
    return "delayed"
  elseif redis.call("ZSCORE", b .. "prioritized", id) then
    return "waiting"
  elseif redis.call("LPOS", b .. "active", id) then
    return "active"
  end
  return "waiting"
end

-- A job as Python reads it: queue, id, state, log lines, when it is due in ms, all fields.
local function snapshot(queue, id, state)
  local b = base(queue)
  state = state or state_of(b, id)
  local due = ""
  if state == "delayed" then
    local score = redis.call("ZSCORE", b .. "delayed", id)
    due = score and text(math.floor(tonumber(score) / 0x1000)) or ""
  end
  return {queue, id, state, redis.call("LLEN", b .. id .. ":logs"), due,
    redis.call("HGETALL", b .. id)}
end

-- Whether a claim is valid, and whether its lock is there. The lock is BullMQ's, and its end of
-- life is the lease's; a lapsed claim stays good until somebody has swept the job, which is in the
-- list of active ones till then, with the token of its latest claim.
local function holds(b, id, token)
  local lock = redis.call("GET", b .. id .. ":lock")
  if lock then
    return lock == token, true
  end
  return redis.call("HGET", b .. id, "o:token") == token
    and redis.call("LPOS", b .. "active", id) ~= false, false
end
