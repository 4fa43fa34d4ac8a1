--@include common
-- Texts of notes. ARGV: their names.
local found = {}
for n = 2, #ARGV do
  found[n - 1] = redis.call("GET", ours .. "note:" .. ARGV[n])
end
return found
