--@include common
-- Log lines of one job. ARGV: id, counted id, first, last.
local queue, id = find(ARGV[2], ARGV[3])
if not queue then
  return {}
end
return redis.call("LRANGE", base(queue) .. id .. ":logs", ARGV[4], ARGV[5])
