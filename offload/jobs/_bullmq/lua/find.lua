--@include common
-- One step of a search through all jobs in order of arrival. ARGV: "1" for the oldest first,
-- limit, number to go on after or empty, prefix of ids, states, queues and functions, each of the
-- three between line ends or empty. Return jobs, and the number to go on after or "".
local STEP, MOST = 200, 2000
local is_oldest_first, limit, cursor = ARGV[2] == "1", tonumber(ARGV[3]), ARGV[4]
local id_prefix, states, queues, functions = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local function among(list, value)
  return list == "" or string.find(list, "\n" .. value .. "\n", 1, true) ~= nil
end

local function unescaped(id)
  return (string.gsub(id, "%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

local found, seen = {}, 0
while seen < MOST do
  local from = cursor == "" and (is_oldest_first and "-inf" or "+inf") or "(" .. cursor
  local step
  if is_oldest_first then
    step = redis.call("ZRANGEBYSCORE", ours .. "jobs", from, "+inf", "WITHSCORES", "LIMIT", 0, STEP)
  else
    step = redis.call("ZREVRANGEBYSCORE", ours .. "jobs", from, "-inf", "WITHSCORES",
      "LIMIT", 0, STEP)
  end
  if #step == 0 then
    return {found, ""}
  end
  for i = 1, #step, 2 do
    local queue, id = string.match(step[i], "^([^:]*):(.*)$")
    local b = base(queue)
    if among(queues, queue) and string.sub(unescaped(id), 1, #id_prefix) == id_prefix then
      local name = redis.call("HGET", b .. id, "name")
      if not name then
        -- Removed by a program of BullMQ's.
        redis.call("ZREM", ours .. "jobs", step[i])
      elseif among(functions, name) then
        local state = state_of(b, id)
        if among(states, state) then
          if #found == limit then
            return {found, cursor}
          end
          found[#found + 1] = snapshot(queue, id, state)
        end
      end
    end
    cursor = step[i + 1]
    seen = seen + 1
  end
end
return {found, cursor}
