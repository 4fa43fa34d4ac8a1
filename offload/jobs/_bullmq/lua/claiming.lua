-- Claims. Needs `bull_take`, BullMQ's moveToActive, and what is in placing.lua and ending.lua.
--
-- BullMQ gives whatever comes first in a queue, whoever asks. Here a worker program gets jobs of
-- its own functions only: the first such job is brought to where BullMQ takes from. Jobs of other
-- functions that stand in the way are parked, each of them once: at the very end of the sorted set
-- `prioritized`, where BullMQ sees them as waiting and takes them last, with their place noted in
-- a sorted set per function. However many of them wait, a claim costs the same.

local function parked_key(b, name)
  return b .. "o:parked:" .. name
end

local function park(b, id, name, position)
  redis.call("ZADD", b .. "prioritized", PARKED, id)
  redis.call("ZADD", parked_key(b, name), text(position), id)
  redis.call("SADD", b .. "o:parked", name)
end

local function unpark(b, id, name)
  redis.call("ZREM", parked_key(b, name), id)
  if redis.call("EXISTS", parked_key(b, name)) == 0 then
    redis.call("SREM", b .. "o:parked", name)
  end
end

-- Return the first parked job of these functions, its function and its position.
local function first_parked(b, functions)
  local best, best_name, best_position
  for _, name in ipairs(redis.call("SMEMBERS", b .. "o:parked")) do
    if string.find(functions, "\n" .. name .. "\n", 1, true) then
      while true do
        local found = redis.call("ZRANGE", parked_key(b, name), 0, 0, "WITHSCORES")
        if not found[1] then
          break
        end
        if redis.call("ZSCORE", b .. "prioritized", found[1]) == PARKED then
          local position = tonumber(found[2])
          if not best or position < best_position then
            best, best_name, best_position = found[1], name, position
          end
          break
        end
        -- It was cancelled, or taken by a worker of BullMQ's.
        unpark(b, found[1], name)
      end
    end
  end
  return best, best_name, best_position
end

-- Return the first waiting job that is not parked, its position and whether it is in the list.
local function first_waiting(b)
  local top = redis.call("ZRANGE", b .. "prioritized", 0, 0, "WITHSCORES")
  local score = tonumber(top[2])
  if not (score and score < 0) then
    local id = redis.call("LINDEX", b .. "wait", -1)
    if id then
      return id, nil, true
    end
  end
  if top[1] and top[2] ~= PARKED then
    return top[1], score, false
  end
end

-- What a claim has to know of each job, in one command: of its place, and of what it was before.
local FIELDS = {"name", "o:position", "o:number", "o:deadline", "ats", "progress", "o:due"}

-- Return the first job of these functions, its position, whether it is where BullMQ takes from, its
-- function if it was parked, and its fields; or nil and whether there may be one all the same.
-- `seen.parked`: whether any job may be parked.
local function first_known(queue, functions, seen)
  local b = base(queue)
  for _ = 1, 500 do
    local id, score, is_listed = first_waiting(b)
    if not id then
      break
    end
    local found = redis.call("HMGET", b .. id, unpack(FIELDS))
    local position = score or tonumber(found[2] or found[3] or 0)
    local late = passed(found[4])
    if late then
      expire(queue, id, late)
    elseif not found[1] then
      take_out(b, id)
    elseif string.find(functions, "\n" .. found[1] .. "\n", 1, true) then
      if seen.parked then
        local other, name, place = first_parked(b, functions)
        if other and place < position then
          return other, place, false, name, redis.call("HMGET", b .. other, unpack(FIELDS))
        end
      end
      return id, position, is_listed, nil, found
    else
      take_out(b, id)
      park(b, id, found[1], position)
      seen.parked = true
    end
    if _ == 500 then
      return nil, true
    end
  end
  if not seen.parked then
    return nil, false
  end
  local id, name, position = first_parked(b, functions)
  if not id then
    return nil, false
  end
  local found = redis.call("HMGET", b .. id, unpack(FIELDS))
  local late = passed(found[4])
  if late then
    unpark(b, id, name)
    expire(queue, id, late)
    return nil, true
  end
  return id, position, false, name, found
end

-- Claim one job of a queue; or return nil, ms until the rate limiter lets go (0: it does not
-- hold), and whether to look again at once.
local function claim_one(queue, functions, token, lease, worker, seen)
  local b = base(queue)
  local id, position, is_listed, parked, before = first_known(queue, functions, seen)
  if not id then
    return nil, 0, position
  end
  if parked then
    unpark(b, id, parked)
  end
  if not is_listed then
    take_out(b, id)
    redis.call("RPUSH", b .. "wait", id)
  end
  redis.call("HSET", b .. id, "o:token", token, "o:position", text(position))
  if before[6] or before[7] then
    redis.call("HDEL", b .. id, "progress", "o:due")
  end
  local taken = bull_take(
    {b .. "wait", b .. "active", b .. "prioritized", b .. "events", b .. "stalled", b .. "limiter",
      b .. "delayed", b .. "paused", b .. "meta", b .. "pc", b .. "marker"},
    {b, text(now), cmsgpack.pack({token = token, lockDuration = lease, name = worker})})
  if type(taken[1]) ~= "table" then
    -- The rate limiter, or a limit on all workers together, both of which BullMQ knows. The job
    -- is the first one now, whatever its priority, and waits.
    return nil, tonumber(taken[3]) or 0, false
  end
  -- A job that begins for the first time has no log.
  local logs = before[5] and redis.call("LLEN", b .. id .. ":logs") or 0
  return {queue, id, token, logs, taken[1]}
end

-- Claim up to `limit` jobs. ARGV from `at` on: worker, lease in ms, limit, token, functions each
-- between line ends, and the queues. Return the claims, ms until a delayed job is due or the rate
-- limiter lets go (-1: unknown), and whether to look again at once.
local function claim(at)
  local worker, lease, limit = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local token, functions = ARGV[at + 3], ARGV[at + 4]
  local claimed, soon, again = {}, -1, 0
  for i = at + 5, #ARGV do
    local queue = ARGV[i]
    local b = base(queue)
    local is_paused = redis.call("HEXISTS", b .. "meta", "paused") == 1
    if not is_paused then
      promote(b)
    end
    local seen = {parked = redis.call("EXISTS", b .. "o:parked") == 1}
    while #claimed < limit and not is_paused do
      local one, held, more = claim_one(queue, functions, token .. "." .. #claimed, lease, worker,
        seen)
      if not one then
        if held > 0 and (soon < 0 or held < soon) then
          soon = held
        end
        if more then
          again = 1
        end
        break
      end
      claimed[#claimed + 1] = one
    end
    if #claimed == 0 then
      local due = redis.call("ZRANGE", b .. "delayed", 0, 0, "WITHSCORES")
      if due[2] then
        local left = math.max(math.floor(tonumber(due[2]) / 0x1000) - now, 0)
        if soon < 0 or left < soon then
          soon = left
        end
      end
    end
  end
  return {claimed, soon, again}
end
