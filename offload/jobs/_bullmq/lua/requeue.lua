--@include common placing ending
--@bullmq reprocess reprocessJob-9
-- Have a job run again that has failed or was cancelled. ARGV: id, counted id. Return its state.
local queue, id = find(ARGV[2], ARGV[3])
if not queue then
  return "unknown"
end
local b = base(queue)
local state = state_of(b, id)
if state ~= "failed" and state ~= "cancelled" then
  return state
end
redis.call("ZREM", ours .. "forget", queue .. ":" .. id)
redis.call("HDEL", b .. id, "o:cancelled", "o:error", "progress", "stacktrace", "o:crashes", "defa",
  "stc", "pb")
redis.call("HSET", b .. id, "atm", 0, "o:position", next_number())
local deadline = redis.call("HGET", b .. id, "o:deadline")
if passed(deadline) then
  local put = cjson.decode(redis.call("HGET", b .. id, "o:put"))
  put.options.deadline = nil
  redis.call("HSET", b .. id, "o:put", cjson.encode(put))
  redis.call("HDEL", b .. id, "o:deadline")
  redis.call("ZREM", ours .. "deadlines", queue .. ":" .. id)
elseif deadline then
  redis.call("ZADD", ours .. "deadlines", string.match(deadline, "^%S+"), queue .. ":" .. id)
end
local options = cjson.decode(redis.call("HGET", b .. id, "opts"))
if options.de and not options.de.ttl then
  -- Another job may have taken the key meanwhile, and keeps it.
  redis.call("SET", b .. "de:" .. options.de.id, id, "NX")
end
bull_reprocess({b .. id, b .. "events", b .. "failed", b .. "wait", b .. "meta", b .. "active",
  b .. "marker", b .. "prioritized", b .. "pc"}, {id, "LPUSH", "failedReason", "failed", "0", "0"})
return ""
