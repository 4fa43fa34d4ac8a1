--@include common
--@bullmq remove removeJob-2
-- Forget jobs that are over. ARGV: pairs of an id and a counted one. Return how many those were.
local count = 0
for at = 2, #ARGV, 2 do
  local queue, id = find(ARGV[at], ARGV[at + 1])
  if queue then
    local b = base(queue)
    local state = state_of(b, id)
    if state == "completed" or state == "failed" or state == "cancelled" then
      bull_remove({b .. id, b .. "repeat"}, {id, "0", b})
      redis.call("ZREM", ours .. "jobs", queue .. ":" .. id)
      redis.call("ZREM", ours .. "forget", queue .. ":" .. id)
      redis.call("ZREM", ours .. "deadlines", queue .. ":" .. id)
      count = count + 1
    end
  end
end
return count
