--@include common
--@bullmq progress updateProgress-3
-- Keep progress. ARGV: queue, id, token, JSON. Return 1, or 0: fenced.
local b = base(ARGV[2])
if not holds(b, ARGV[3], ARGV[4]) then
  return 0
end
bull_progress({b .. ARGV[3], b .. "events", b .. "meta"}, {ARGV[3], ARGV[5]})
return 1
