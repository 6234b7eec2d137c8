-- A heartbeat. ARGV: time, worker id, the worker as JSON, microseconds of the lease, microseconds
-- until a silent worker is forgotten, then for each lease its id, attempt and start.
-- Answers for each lease 0 when it is lost, 1 when it is held, 2 when the job should stop.

local worker, lease_us, silent_us = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local answers = {}

pass_when_full()
local oldest = '(' .. format('%.0f', now - silent_us)
for _, silent in ipairs(call('ZRANGEBYSCORE', base .. 'beats', '-inf', oldest)) do
  call('ZREM', base .. 'beats', silent)
  call('HDEL', base .. 'workers', silent)
  call('HDEL', base .. 'wanted', silent)
end
call('ZADD', base .. 'beats', now, worker)
call('HSET', base .. 'workers', worker, ARGV[3])

for at = 6, #ARGV, 3 do
  local got = call('HMGET', base .. 'job:' .. ARGV[at], 'state', 'attempt', 'started', 'cancel')
  if got[1] == 'running' and got[2] == ARGV[at + 1] and got[3] == ARGV[at + 2] then
    call('ZADD', base .. 'running', now + lease_us, ARGV[at])
    answers[#answers + 1] = got[4] and 2 or 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
