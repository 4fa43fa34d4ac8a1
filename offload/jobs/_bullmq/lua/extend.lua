--@include common
-- Extend claims. ARGV: lease in ms, then queue, id and token of each. Return "ok", "cancelled" or
-- "lost" for each.
local found = {}
for at = 3, #ARGV, 3 do
  local queue, id, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local b = base(queue)
  if holds(b, id, token) then
    redis.call("SET", b .. id .. ":lock", token, "PX", ARGV[2])
    redis.call("SREM", b .. "stalled", id)
    found[#found + 1] = redis.call("HEXISTS", b .. id, "o:cancel") == 1 and "cancelled" or "ok"
  else
    found[#found + 1] = "lost"
  end
end
return found
