--@include common
-- Change notes. ARGV: for each its name, what is expected, its text, and its lifetime in ms or "".
-- A text has a 1 before it; 0 is none.
local replies = {}
for n = 2, #ARGV, 4 do
  local name, expected, value, lifetime = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3]
  local key = ours .. "note:" .. name
  local found = redis.call("GET", key)
  local now_is = found and "1" .. found or "0"
  if now_is ~= expected and now_is ~= value then
    replies[#replies + 1] = 0
  else
    replies[#replies + 1] = 1
    if value == "0" then
      redis.call("DEL", key)
      redis.call("ZREM", ours .. "notes", name)
    elseif lifetime == "" then
      redis.call("SET", key, string.sub(value, 2))
      redis.call("ZADD", ours .. "notes", 0, name)
    else
      redis.call("SET", key, string.sub(value, 2), "PX", lifetime)
      redis.call("ZREM", ours .. "notes", name)
    end
  end
end
return replies
