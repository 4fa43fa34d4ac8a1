--@include common placing
--@bullmq add_standard addStandardJob-9
--@bullmq add_delayed addDelayedJob-6
--@bullmq add_prioritized addPrioritizedJob-9
-- Keep all jobs, or none. ARGV[2]: how many may be queued, or empty. Then twelve for each job:
-- queue, id, the id as BullMQ may have counted it, name, data, BullMQ's options, priority, due in
-- us, unique key, its lifetime in ms, deadline, what is ours, keep.
local FIELDS = 13
local answers, adds, additions, ids, keys = {}, {}, {}, {}, {}

local function length(queue)
  local b = base(queue)
  return redis.call("LLEN", b .. "wait") + redis.call("ZCARD", b .. "prioritized")
    + redis.call("ZCARD", b .. "delayed")
end

local function holder(queue, key)
  local b = base(queue)
  local id = redis.call("GET", b .. "de:" .. key)
  if id and redis.call("EXISTS", b .. id) == 1 then
    return id
  end
end

for at = 3, #ARGV, FIELDS do
  local queue, id, raw, key = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 8]
  local slot = queue .. ":" .. key
  local known, found = find(id, raw, queue)
  local answer = known and found or ids[id] or (key ~= "" and (holder(queue, key) or keys[slot]))
  answers[#answers + 1] = answer or id
  adds[#adds + 1] = not answer
  additions[queue] = additions[queue] or 0
  if not answer then
    ids[id] = id
    if key ~= "" then
      keys[slot] = id
    end
    additions[queue] = additions[queue] + 1
  end
end

if ARGV[2] ~= "" then
  for queue, count in pairs(additions) do
    local total = length(queue) + count
    if total > tonumber(ARGV[2]) then
      return {"full", queue, total}
    end
  end
end

local function add(at)
  local queue, id, priority = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 6])
  local due, key, lifetime, deadline = ARGV[at + 7], ARGV[at + 8], ARGV[at + 9], ARGV[at + 10]
  local b = base(queue)
  local options = cjson.decode(ARGV[at + 5])
  options.jobId = id
  local delay = 0
  if due ~= "" and tonumber(due) > now_us then
    delay = math.ceil(tonumber(due) / 1000) - now
    options.delay = delay
  end
  if priority ~= 0 then
    options.priority = priority
  end
  if key ~= "" then
    options.de = {id = key, ttl = lifetime ~= "" and tonumber(lifetime) or nil}
  end
  local arguments = cmsgpack.pack({b, id, ARGV[at + 3], text(now),
    [9] = key ~= "" and b .. "de:" .. key or nil})
  local packed = cmsgpack.pack(options)
  register(queue)
  if delay > 0 then
    bull_add_delayed({b .. "marker", b .. "meta", b .. "id", b .. "delayed", b .. "completed",
      b .. "events"}, {arguments, ARGV[at + 4], packed, text(now)})
  elseif priority ~= 0 then
    bull_add_prioritized({b .. "marker", b .. "meta", b .. "id", b .. "prioritized", b .. "delayed",
      b .. "completed", b .. "active", b .. "events", b .. "pc"},
      {arguments, ARGV[at + 4], packed, text(now)})
  else
    bull_add_standard({b .. "wait", b .. "paused", b .. "meta", b .. "id", b .. "completed",
      b .. "delayed", b .. "active", b .. "events", b .. "marker"},
      {arguments, ARGV[at + 4], packed, text(now)})
  end
  local number = next_number()
  redis.call("HSET", b .. id, "o:number", number, "o:put", ARGV[at + 11], "o:keep", ARGV[at + 12])
  redis.call("ZADD", ours .. "jobs", number, queue .. ":" .. id)
  if delay > 0 then
    redis.call("HSET", b .. id, "o:due", due)
  end
  if deadline ~= "" then
    redis.call("HSET", b .. id, "o:deadline", deadline)
    redis.call("ZADD", ours .. "deadlines", string.match(deadline, "^%S+"), queue .. ":" .. id)
  end
end

for i, is_new in ipairs(adds) do
  if is_new then
    add(3 + (i - 1) * FIELDS)
  end
end
return {"ok", answers}
