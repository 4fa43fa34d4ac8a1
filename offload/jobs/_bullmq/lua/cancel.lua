--@include common placing ending
--@bullmq finish moveToFinished-14
-- Cancel a job, or ask for it. ARGV: id, counted id. Return what that came to.
local queue, id = find(ARGV[2], ARGV[3])
if not queue then
  return "unknown"
end
local state = state_of(base(queue), id)
if state == "completed" or state == "failed" or state == "cancelled" then
  return "over"
elseif state == "active" then
  redis.call("HSET", base(queue) .. id, "o:cancel", "1")
  return "asked"
end
end_unstarted(queue, id, CANCELLED)
return "removed"
