--@include common
local paused = {}
for _, queue in ipairs(redis.call("SMEMBERS", ours .. "queues")) do
  if redis.call("HEXISTS", base(queue) .. "meta", "paused") == 1 then
    paused[#paused + 1] = queue
  end
end
return paused
