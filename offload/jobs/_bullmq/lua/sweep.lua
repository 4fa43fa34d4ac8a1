--@include common placing ending
--@bullmq finish moveToFinished-14
-- End lapsed attempts, and fail waiting jobs whose deadline has passed. ARGV[2]: the message of a
-- lapsed lease, with %s for the worker; ARGV[3]: its type. Return ids of jobs that wait again, have
-- failed and are cancelled, and 1 if there may be more.
--
-- The decisions are those of `offload.jobs._decisions.lapse`.
local MOST = 500
local retried, failed, cancelled, done = {}, {}, {}, 0

local function lapse(queue, id)
  local b = base(queue)
  local found = redis.call("HMGET", b .. id, "o:crashes", "o:cancel", "pb", "o:put", "atm")
  local crashes = tonumber(found[1] or 0) + 1
  local most = found[4] and cjson.decode(found[4]).options.max_crashes or 2
  local worker = found[3] or "of BullMQ"
  local message = string.gsub(ARGV[2], "%%s", (string.gsub(worker, "%%", "%%%%")))
  local error = cjson.encode({ARGV[3], message, ""})
  keep_attempt(b, id, "lapsed", error)
  keep_error(b, id, message, error, "[]")
  redis.call("HSET", b .. id, "o:crashes", crashes)
  lock(b, id, "offload")
  if found[2] then
    cancel_active(queue, id, "offload", found[5] or 0)
    cancelled[#cancelled + 1] = id
  elseif crashes > most then
    over(queue, id, "offload", "failed", "failedReason", message, found[5] or 0)
    failed[#failed + 1] = id
  else
    redis.call("LREM", b .. "active", -1, id)
    redis.call("SREM", b .. "stalled", id)
    redis.call("DEL", b .. id .. ":lock")
    put_back(b, id)
    retried[#retried + 1] = id
  end
end

local function sweep(queue)
  local b = base(queue)
  local active = redis.call("LRANGE", b .. "active", 0, -1)
  for from = 1, #active, 500 do
    local locks = {}
    for i = from, math.min(from + 499, #active) do
      locks[#locks + 1] = b .. active[i] .. ":lock"
    end
    for i, lock in ipairs(redis.call("MGET", unpack(locks))) do
      if not lock then
        if done == MOST then
          return
        end
        done = done + 1
        local id = active[from + i - 1]
        if redis.call("EXISTS", b .. id) == 1 then
          lapse(queue, id)
        else
          redis.call("LREM", b .. "active", -1, id)
        end
      end
    end
  end
end

for _, queue in ipairs(redis.call("SMEMBERS", ours .. "queues")) do
  sweep(queue)
end

local gone = {}
for _, member in ipairs(redis.call("ZRANGEBYSCORE", ours .. "deadlines", "-inf", text(now),
  "LIMIT", 0, MOST)) do
  local queue, id = string.match(member, "^([^:]*):(.*)$")
  local b = base(queue)
  local late = passed(redis.call("HGET", b .. id, "o:deadline"))
  local state = late and state_of(b, id)
  if state == "waiting" or state == "delayed" then
    expire(queue, id, late)
    gone[id] = true
    failed[#failed + 1] = id
    done = done + 1
  end
  if state ~= "active" then
    redis.call("ZREM", ours .. "deadlines", member)
  end
end
local again = {}
for _, id in ipairs(retried) do
  if not gone[id] then
    again[#again + 1] = id
  end
end
return {again, failed, cancelled, done >= MOST and 1 or 0}
