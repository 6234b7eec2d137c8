-- Hand out jobs. ARGV: time, most jobs, a random number in 0 to 1, worker as JSON, microseconds of
-- the lease, the one job asked for (or empty), then the queues to take from (none for all).
-- Answers the time, then for each job: id, version, JSON, payload, attempt, tries.

local RECOVER_MOST, PROMOTE_MOST, CLEAR_MOST, GOLDEN = 100, 500, 100, 0.6180339887498949
local limit, random = tonumber(ARGV[2]), tonumber(ARGV[3])
local worker, lease_us, only = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local answer = {format('%.0f', now)}

local function policy_of(job)
  local is_read, form = pcall(cjson.decode, call('HGET', base .. 'job:' .. job.id, 'job'))
  local retry = is_read and type(form) == 'table' and form.retry
  if type(retry) ~= 'table' then retry = {} end
  return number(retry.max_attempts, 3), number(retry.base_s, 1), number(retry.cap_s, 300)
end

-- Its worker died: another attempt after the backoff, or none is left.
local function lose(job)
  local max_attempts, base_s, cap_s = policy_of(job)
  local state, due = 'scheduled', job.due
  local problem = format('{"lost":%s,"attempt":%.0f}', job.worker or '""', job.attempt)
  if job.cancel then
    state = 'cancelled'
  elseif job.tries >= max_attempts then
    state = 'failed'
  else
    local most_s = math.min(cap_s, base_s * 2 ^ math.min(job.tries - 1, 1000))
    due = math.min(LAST, now + floor(random * most_s * 1000000))
    -- The next one's number is as good as random, and far from this one.
    random = (random + GOLDEN) % 1
  end
  local log = logged(job, problem)
  leave(job)
  job.due = due
  enter(job, state)
  write(job, 'state', state, 'due', due, 'error', problem, 'log', log, 'finished', now)
end

local overdue = call('ZRANGEBYSCORE', base .. 'running', '-inf', now, 'LIMIT', 0, RECOVER_MOST)
for _, id in ipairs(overdue) do
  local job = read(id)
  if not job then
    exorcise(id)
  elseif job.state == 'running' then
    lose(job)
  else
    call('ZREM', base .. 'running', id)
  end
end
settle_all()
promote(PROMOTE_MOST)

local function take(job)
  leave(job)
  enter(job, 'running')
  call('ZADD', base .. 'running', now + lease_us, job.id)
  if job.lane then
    call('HSET', base .. 'turns', job.id, job.lane)
    call('HINCRBY', base .. 'busy', job.lane, 1)
  end
  job.attempt, job.tries = job.attempt + 1, job.tries + 1
  write(job, 'state', 'running', 'attempt', job.attempt, 'tries', job.tries, 'worker', worker,
    'started', format('%.0f', now), 'progress', '0')
  local kept = call('HMGET', base .. 'job:' .. job.id, 'v', 'job', 'payload')
  for _, value in ipairs({job.id, kept[1] or '', kept[2] or '', kept[3] or ''}) do
    answer[#answer + 1] = value
  end
  answer[#answer + 1], answer[#answer + 2] = job.attempt, job.tries
  rung[job.queue] = (rung[job.queue] or 0) - 1
end

local function is_asked_for(queue)
  for at = 7, #ARGV do
    if ARGV[at] == queue then return true end
  end
  return #ARGV < 7
end

local function take_only(job)
  if not job or job.state ~= 'queued' or not is_asked_for(job.queue) then return end
  local busy = job.lane and tonumber(call('HGET', base .. 'busy', job.lane) or 0)
  if not busy or busy < job.max then take(job) end
end

-- Who is missing, or not waiting, leaves its place.
local function clear(place, queue, job)
  may_not_start(place, queue)
  if not job then exorcise(string.sub(place, ID_AT)) end
  local heads = call('HGETALL', base .. 'heads')
  for at = 1, #heads, 2 do
    if heads[at + 1] == place then
      local begins = string.find(heads[at], ':', 1, true)
      call('HDEL', base .. 'heads', heads[at])
      call('ZREM', base .. 'lane:' .. heads[at], place)
      unsettled[string.sub(heads[at], begins + 1 + #queue)] = true
    end
  end
end

local function queues_to_take_from()
  local paused, found = {}, {}
  for _, name in ipairs(call('SMEMBERS', base .. 'paused')) do paused[name] = true end
  if paused['*'] then return found end
  for _, queue in ipairs(call('SMEMBERS', base .. 'open')) do
    if is_asked_for(queue) and not paused['=' .. queue] then found[#found + 1] = queue end
  end
  return found
end

local function best_of(queues, lines)
  local best, place, score
  for _, queue in ipairs(queues) do
    local line = lines[queue]
    if not line or line.at > #line then
      line = call('ZRANGE', base .. 'ready:' .. queue, 0, math.min(limit, 100) - 1, 'WITHSCORES')
      line.at, lines[queue] = 1, line
    end
    local candidate, priority = line[line.at], tonumber(line[line.at + 1])
    local is_better = candidate
      and (not best or priority < score or (priority == score and candidate < place))
    if is_better then
      best, place, score = queue, candidate, priority
    end
  end
  if best then lines[best].at = lines[best].at + 2 end
  return best, place
end

local function take_best()
  local queues, lines, taken, cleared = queues_to_take_from(), {}, 0, 0
  while taken < limit and cleared < CLEAR_MOST do
    local queue, place = best_of(queues, lines)
    if not queue then return end
    local job = read(string.sub(place, ID_AT))
    if job and job.state == 'queued' then
      take(job)
      taken = taken + 1
    else
      clear(place, queue, job)
      cleared = cleared + 1
    end
    if next(unsettled) then
      settle_all()
      queues, lines = queues_to_take_from(), {}
    end
  end
end

if only ~= '' then take_only(read(only)) else take_best() end
settle_all()
ring_all()
return answer
