--@include common
--@bullmq pause pause-7
-- Pause or resume a queue. ARGV: queue, "paused" or "resumed".
register(ARGV[2])
local b = base(ARGV[2])
local from, to = "wait", "paused"
if ARGV[3] == "resumed" then
  from, to = "paused", "wait"
end
bull_pause({b .. from, b .. to, b .. "meta", b .. "prioritized", b .. "events", b .. "delayed",
  b .. "marker"}, {ARGV[3]})
return 1
