--@include common
-- How many jobs of a queue ended within each of some steps of time. ARGV: queue, key of the state,
-- seconds of a step, beginning of the last one, how many, and how many of the failed ones were
-- counted before. Return beginning, whether cancelled, and count of each step that has any; and how many of
-- the failed ones are counted now, or nothing once all are.
local BATCH = 1000
local b = base(ARGV[2])
local key = b .. ARGV[3]
local step, last = tonumber(ARGV[4]), tonumber(ARGV[5])
local from = last - (tonumber(ARGV[6]) - 1) * step
local counts = {}

local function count_between(first, till)
  return redis.call("ZCOUNT", key, text(first * 1000), "(" .. text(till * 1000))
end

if ARGV[3] == "completed" then
  -- Most queues have nothing to do most of the time.
  if count_between(from, last + step) > 0 then
    for at = from, last, step do
      local count = count_between(at, at + step)
      if count > 0 then
        counts[#counts + 1] = {text(at), "0", count}
      end
    end
  end
  return {counts}
end

-- Cancelled jobs are among those that BullMQ calls failed.
local offset = tonumber(ARGV[7])
local jobs = redis.call("ZRANGEBYSCORE", key, text(from * 1000), "(" .. text((last + step) * 1000),
  "WITHSCORES", "LIMIT", offset, BATCH)
for i = 1, #jobs, 2 do
  local at = text(math.floor(tonumber(jobs[i + 1]) / 1000 / step) * step)
  local cancelled = text(redis.call("HEXISTS", b .. jobs[i], "o:cancelled"))
  -- In order of time: the two counts of a step are the last two.
  local found
  for back = 0, 1 do
    local each = counts[#counts - back]
    if each and each[1] == at and each[2] == cancelled then
      found = each
    end
  end
  if found then
    found[3] = found[3] + 1
  else
    counts[#counts + 1] = {at, cancelled, 1}
  end
end
if #jobs == 2 * BATCH then
  return {counts, offset + BATCH}
end
return {counts}
