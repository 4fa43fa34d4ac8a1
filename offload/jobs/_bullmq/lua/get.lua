--@include common
-- Jobs by id, and false for those that are not known: pairs of an id and a counted one.
local found = {}
for at = 2, #ARGV, 2 do
  local queue, id = find(ARGV[at], ARGV[at + 1])
  found[#found + 1] = queue and snapshot(queue, id) or false
end
return found
