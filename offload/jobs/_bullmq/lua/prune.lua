--@include common
--@bullmq remove removeJob-2
-- Forget a batch of jobs that are over. ARGV[2]: how many may be kept, or empty. Return how many
-- were looked at, and how many of them forgotten.
local BATCH = 500
local seen, count = 0, 0

local function forget(queue, id)
  local b = base(queue)
  local state = state_of(b, id)
  redis.call("ZREM", ours .. "forget", queue .. ":" .. id)
  if state == "completed" or state == "failed" or state == "cancelled" then
    bull_remove({b .. id, b .. "repeat"}, {id, "0", b})
    redis.call("ZREM", ours .. "jobs", queue .. ":" .. id)
    redis.call("ZREM", ours .. "deadlines", queue .. ":" .. id)
    count = count + 1
  end
  seen = seen + 1
end

-- Jobs that a worker of BullMQ's has finished: each one that is over is looked at once, in order.
for _, queue in ipairs(redis.call("SMEMBERS", ours .. "queues")) do
  for _, state in ipairs({"completed", "failed"}) do
    local key = base(queue) .. state
    local from = redis.call("HGET", ours .. "examined", queue .. ":" .. state) or "-inf"
    local found = redis.call("ZRANGEBYSCORE", key, from, "+inf", "WITHSCORES", "LIMIT", 0, BATCH)
    for i = 1, #found, 2 do
      local keep = redis.call("HGET", base(queue) .. found[i], "o:keep")
      if keep and keep ~= "" then
        redis.call("ZADD", ours .. "forget", "NX",
          text(tonumber(found[i + 1]) + tonumber(keep) * 1000), queue .. ":" .. found[i])
      end
    end
    if #found > 0 then
      redis.call("HSET", ours .. "examined", queue .. ":" .. state, found[#found])
    end
  end
end

for _, member in ipairs(redis.call("ZRANGEBYSCORE", ours .. "forget", "-inf", text(now),
  "LIMIT", 0, BATCH)) do
  forget(string.match(member, "^([^:]*):(.*)$"))
end

if ARGV[2] ~= "" and seen < BATCH then
  local over = {}
  local total = 0
  local queues = redis.call("SMEMBERS", ours .. "queues")
  for _, queue in ipairs(queues) do
    for _, state in ipairs({"completed", "failed"}) do
      total = total + redis.call("ZCARD", base(queue) .. state)
    end
  end
  local excess = math.min(total - tonumber(ARGV[2]), BATCH)
  if excess > 0 then
    for _, queue in ipairs(queues) do
      for _, state in ipairs({"completed", "failed"}) do
        local found = redis.call("ZRANGE", base(queue) .. state, 0, excess + 20, "WITHSCORES")
        for i = 1, #found, 2 do
          over[#over + 1] = {queue, found[i], tonumber(found[i + 1]),
            tonumber(redis.call("HGET", base(queue) .. found[i], "o:number") or 0)}
        end
      end
    end
    table.sort(over, function(one, other)
      if one[3] ~= other[3] then
        return one[3] < other[3]
      end
      return one[4] < other[4]
    end)
    for i = 1, excess do
      forget(over[i][1], over[i][2])
    end
  end
end
return {seen, count}
