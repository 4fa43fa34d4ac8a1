--@include common
-- Where events are now: of our news, and of each queue, or of those in ARGV. Pairs of a key and the
-- id of its last entry.
local queues = {}
for i = 2, #ARGV do
  queues[#queues + 1] = ARGV[i]
end
if #queues == 0 then
  queues = redis.call("SMEMBERS", ours .. "queues")
end
local found = {}
local function last(key)
  local entry = redis.call("XREVRANGE", key, "+", "-", "COUNT", 1)
  found[#found + 1] = {key, entry[1] and entry[1][1] or "0-0"}
end
last(ours .. "news")
for _, queue in ipairs(queues) do
  last(base(queue) .. "events")
end
return found
