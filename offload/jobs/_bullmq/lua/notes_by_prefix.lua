--@include common
-- Notes without a lifetime whose names begin with ARGV[2]: name and text in turns.
--
-- Their names are in a sorted set, all with the same score, which Redis orders by bytes.
local found = {}
for _, name in ipairs(redis.call("ZRANGEBYLEX", ours .. "notes", "[" .. ARGV[2],
    "[" .. ARGV[2] .. "\255")) do
  local value = redis.call("GET", ours .. "note:" .. name)
  if value then
    found[#found + 1] = name
    found[#found + 1] = value
  end
end
return found
