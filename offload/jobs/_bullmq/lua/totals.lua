--@include common
-- How many jobs each queue has in each of BullMQ's states, and how many are in the index.
local STATES = {"wait", "prioritized", "delayed", "active", "completed", "failed"}
local totals = {}
for _, queue in ipairs(redis.call("SMEMBERS", ours .. "queues")) do
  local b = base(queue)
  for _, state in ipairs(STATES) do
    local is_list = state == "wait" or state == "active"
    local count = redis.call(is_list and "LLEN" or "ZCARD", b .. state)
    totals[#totals + 1] = {queue, state, count}
  end
end
return {totals, redis.call("ZCARD", ours .. "jobs")}
