-- Where jobs stand in a queue.
--
-- BullMQ has a list for jobs without priority, and behind it a sorted set for the others, smaller
-- numbers first. Priorities of ours are BullMQ's with the other sign: those above 0 have negative
-- scores there, and `first_known` takes them before the list.
--
-- A position compares waiting jobs: `priority * 2^32 + number`, as BullMQ's scores do; for the
-- list, the number is of our own counter.
local PARKED = "inf"

local function next_number()
  return redis.call("INCR", ours .. "number")
end

local function position_of(b, id)
  local found = redis.call("HMGET", b .. id, "o:position", "o:number")
  return tonumber(found[1] or found[2] or 0)
end

local function mark(b)
  if redis.call("HEXISTS", b .. "meta", "paused") == 0 then
    redis.call("ZADD", b .. "marker", 0, "0")
  end
end

-- Put a job back where it was claimed from. As a rule it is the first of all; after several were
-- put back, those at the end of the list that came before it stay before it.
local function put_back(b, id)
  local position = position_of(b, id)
  local priority = tonumber(redis.call("HGET", b .. id, "priority") or 0)
  if priority ~= 0 then
    local counter = tonumber(redis.call("GET", b .. "pc") or 0)
    if position % 0x100000000 > counter then
      -- BullMQ has begun to count anew: then it is before all of its priority.
      position = priority * 0x100000000
    end
    redis.call("ZADD", b .. "prioritized", text(position), id)
  else
    local earlier = {}
    while #earlier < 1000 do
      local last = redis.call("LINDEX", b .. "wait", -1)
      if not last or position_of(b, last) >= position then
        break
      end
      redis.call("RPOP", b .. "wait")
      earlier[#earlier + 1] = last
    end
    redis.call("RPUSH", b .. "wait", id)
    for i = #earlier, 1, -1 do
      redis.call("RPUSH", b .. "wait", earlier[i])
    end
  end
  mark(b)
  redis.call("XADD", b .. "events", "MAXLEN", "~", 10000, "*", "event", "waiting", "jobId", id,
    "prev", "active")
end

-- Have delayed jobs that are due wait behind the others, as BullMQ does. False: there may be more.
local function promote(b)
  local due = redis.call("ZRANGEBYSCORE", b .. "delayed", 0, text((now + 1) * 0x1000 - 1),
    "LIMIT", 0, 500)
  for _, id in ipairs(due) do
    redis.call("ZREM", b .. "delayed", id)
    local priority = tonumber(redis.call("HGET", b .. id, "priority") or 0)
    if priority == 0 then
      redis.call("LPUSH", b .. "wait", id)
      redis.call("HSET", b .. id, "delay", 0, "o:position", next_number())
    else
      local counter = redis.call("INCR", b .. "pc")
      redis.call("ZADD", b .. "prioritized",
        text(priority * 0x100000000 + counter % 0x100000000), id)
      redis.call("HSET", b .. id, "delay", 0)
    end
    redis.call("XADD", b .. "events", "*", "event", "waiting", "jobId", id, "prev", "delayed")
  end
  if #due > 0 then
    mark(b)
  end
end

-- Take a waiting or delayed job out of wherever it is.
local function take_out(b, id)
  if redis.call("ZREM", b .. "delayed", id) == 0
    and redis.call("ZREM", b .. "prioritized", id) == 0 then
    redis.call("LREM", b .. "wait", -1, id)
  end
end
