--@include common
-- Have jobs in the index that producers of BullMQ's have put: a step through one state of a queue.
-- ARGV: queue, key of the state, first, last. Return how many ids the step had.
local b = base(ARGV[2])
local key = b .. ARGV[3]
local ids
if redis.call("TYPE", key).ok == "list" then
  ids = redis.call("LRANGE", key, ARGV[4], ARGV[5])
else
  ids = redis.call("ZRANGE", key, ARGV[4], ARGV[5])
end
for i = #ids, 1, -1 do
  local id = ids[i]
  if redis.call("EXISTS", b .. id) == 1 and redis.call("HEXISTS", b .. id, "o:number") == 0 then
    local number = redis.call("INCR", ours .. "number")
    redis.call("HSET", b .. id, "o:number", number)
    redis.call("ZADD", ours .. "jobs", number, ARGV[2] .. ":" .. id)
  end
end
return #ids
