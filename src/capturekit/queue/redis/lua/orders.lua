-- What a worker should know; writes nothing. ARGV: time (not used), worker id, then for each lease
-- its id, attempt and start. Answers the concurrency wanted of it (or empty), then as beat.lua.

local base, answers = KEYS[1], {}
answers[1] = redis.call('HGET', base .. 'wanted', ARGV[2]) or ''
for at = 3, #ARGV, 3 do
  local got = redis.call('HMGET', base .. 'job:' .. ARGV[at],
    'state', 'attempt', 'started', 'cancel')
  local is_held = got[1] == 'running' and got[2] == ARGV[at + 1] and got[3] == ARGV[at + 2]
  answers[#answers + 1] = is_held and (got[4] and 2 or 1) or 0
end
return answers
