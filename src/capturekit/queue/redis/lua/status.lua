-- Looking. ARGV: time, then one of
--   job ID                      answers the time and the job's hash
--   jobs LIMIT BATCH STATE...   the time and the newest hashes of jobs in these states, each after
--                               its id; BATCH is empty, or `=` and a name
--   batch NAME                  jobs by state
--   stats                       the time, what is paused, when the oldest queued came due, flow,
--                               then each queue with its jobs by state
--   workers US                  the time, then ids, JSON and heartbeats of those heard of within
--                               this time, then running jobs, each after its worker
-- Where jobs are counted by state, those that came due are made ready first; more than so many at
-- a time are left, and then `more` is the answer.

local PROMOTE_MOST = 1000
local what = ARGV[2]
local answer = {format('%.0f', now)}

local function of_groups(kind, names, states, limit)
  local found = {}
  for _, name in ipairs(names) do
    for _, state in ipairs(states) do
      local group = base .. state .. ':' .. kind .. ':' .. name
      local got = call('ZREVRANGE', group, 0, limit - 1, 'WITHSCORES')
      for at = 1, #got, 2 do found[#found + 1] = {got[at], tonumber(got[at + 1])} end
    end
  end
  table.sort(found, function(one, other) return one[2] > other[2] end)
  return found
end

local function depth(kind, name)
  local counts = {}
  for index, state in ipairs(STATES) do
    counts[index] = call('ZCARD', base .. state .. ':' .. kind .. ':' .. name)
  end
  return counts
end

if what == 'job' then
  answer[2] = call('HGETALL', base .. 'job:' .. ARGV[3])
  return answer
elseif what == 'workers' then
  answer[2] = {}
  local oldest = format('%.0f', now - ARGV[3])
  for _, id in ipairs(call('ZRANGEBYSCORE', base .. 'beats', oldest, '+inf')) do
    local text = call('HGET', base .. 'workers', id)
    if text then
      local beat = call('ZSCORE', base .. 'beats', id)
      for _, value in ipairs({id, text, beat}) do answer[2][#answer[2] + 1] = value end
    end
  end
  answer[3] = {}
  for _, id in ipairs(call('ZRANGE', base .. 'running', 0, -1)) do
    answer[3][#answer[3] + 1] = call('HGET', base .. 'job:' .. id, 'worker') or ''
    answer[3][#answer[3] + 1] = id
  end
  return answer
end

local has_more = promote(PROMOTE_MOST)
ring_all()
if has_more then return 'more' end

if what == 'batch' then
  return depth('batch', ARGV[3])
elseif what == 'stats' then
  answer[2] = call('SMEMBERS', base .. 'paused')
  answer[3] = call('ZRANGE', base .. 'queued', 0, 0, 'WITHSCORES')[2] or ''
  answer[4] = call('HGETALL', base .. 'flow')
  for _, queue in ipairs(call('SMEMBERS', base .. 'queues')) do
    answer[#answer + 1] = queue
    answer[#answer + 1] = depth('queue', queue)
  end
  return answer
end

local limit, batch, states = tonumber(ARGV[3]), ARGV[4], {}
for at = 5, #ARGV do states[#states + 1] = ARGV[at] end
local kind = batch == '' and 'queue' or 'batch'
local names = batch == '' and call('SMEMBERS', base .. 'queues') or {string.sub(batch, 2)}
for index, one in ipairs(of_groups(kind, names, states, limit)) do
  if index > limit then break end
  answer[#answer + 1] = one[1]
  answer[#answer + 1] = call('HGETALL', base .. 'job:' .. one[1])
end
return answer
