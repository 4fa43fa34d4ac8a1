--@include common
-- Keep log lines, the first ones. ARGV: queue, id, token, lines. Return 1, or 0: fenced.
local b, id = base(ARGV[2]), ARGV[3]
if not holds(b, id, ARGV[4]) then
  return 0
end
local put = redis.call("HGET", b .. id, "o:put")
local most = put and cjson.decode(put).options.max_logs or 1000
local room = most - redis.call("LLEN", b .. id .. ":logs")
for i = 5, math.min(#ARGV, 4 + room) do
  redis.call("RPUSH", b .. id .. ":logs", ARGV[i])
end
if #ARGV > 4 then
  tell(b, "log", id)
end
return 1
