-- How long nothing can be handed out. ARGV: time, then the queues asked for (none for all).
-- Answers microseconds, -1 for ever. Marks left in the lists that wake are old if there is no work.

local paused, wanted = {}, {}
for _, name in ipairs(call('SMEMBERS', base .. 'paused')) do paused[name] = true end
for at = 2, #ARGV do wanted[ARGV[at]] = true end

local soonest = call('ZRANGE', base .. 'running', 0, 0, 'WITHSCORES')[2]
if not paused['*'] then
  for _, queue in ipairs(call('SMEMBERS', base .. 'open')) do
    if (#ARGV == 1 or wanted[queue]) and not paused['=' .. queue] then return 0 end
  end
  local due = call('ZRANGE', base .. 'scheduled', 0, 0, 'WITHSCORES')[2]
  if due and (not soonest or tonumber(due) < tonumber(soonest)) then soonest = due end
end
if #ARGV == 1 then call('DEL', base .. 'wake') end
for at = 2, #ARGV do call('DEL', base .. 'wake:' .. ARGV[at]) end
return soonest and math.max(0, tonumber(soonest) - now) or -1
