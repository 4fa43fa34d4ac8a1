--@include common
-- Count by function, and cancelled apart from failed: a step through one state of a queue. ARGV:
-- queue, key of the state, first, last. Return names, whether cancelled, and counts.
local b = base(ARGV[2])
local key = b .. ARGV[3]
local ids
if redis.call("TYPE", key).ok == "list" then
  ids = redis.call("LRANGE", key, ARGV[4], ARGV[5])
else
  ids = redis.call("ZRANGE", key, ARGV[4], ARGV[5])
end
local counts = {["0"] = {}, ["1"] = {}}
for _, id in ipairs(ids) do
  local found = redis.call("HMGET", b .. id, "name", "o:cancelled")
  if found[1] then
    local by = counts[found[2] and "1" or "0"]
    by[found[1]] = (by[found[1]] or 0) + 1
  end
end
local flat = {}
for cancelled, by in pairs(counts) do
  for name, count in pairs(by) do
    flat[#flat + 1] = {name, cancelled, count}
  end
end
return flat
