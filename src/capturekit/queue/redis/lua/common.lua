-- What all operations know: where things are kept, and how a job goes from one state to another.
-- It is put before each of the other files. KEYS[1] begins every key and holds the hash tag, so
-- all keys are in one slot of a Cluster. ARGV[1] is the time, or empty for the server's own.
--
-- Times are whole microseconds since 1970, which doubles hold exactly until the year 2255.
--
--   job:ID            hash: the job as JSON (job, payload, version v), and what became of it
--   ready:QUEUE       zset of places, by -priority: who may start now, best first
--   open              set: queues in which someone may start
--   queued, scheduled zsets of ids, by when they came or come due
--   running, ended    zsets of ids, by when the lease runs out, by when they ended
--   STATE:queue:NAME, STATE:batch:NAME   zsets of ids, by seq: who is in which state
--   queues            set: queues that have jobs
--   lane:QUEUE+KEY    zset of places: all queued jobs of a concurrency key, in one queue
--   lanes:KEY         set: queues in which the key has such a line
--   heads             hash: of each lane, the one place of it that is in ready
--   busy, turns       hashes: how many of a key run; the key of a running job
--   unique            hash: the id of the job that holds a unique key
--   paused            set: '*' for all, '=NAME' for one queue
--   wake, wake:QUEUE  lists on which idle workers block; what is in them says only "look"
--   flow              hash: how many came and went, in buckets of time
--   workers, beats, wanted               what is known of workers, heard when, told what
--   seq               the number of jobs so far
--
-- A place is `due|seq|id` with digits of fixed width. Equal scores of a zset are in the order of
-- their bytes, so priority, due time and submission sort exactly, whatever 53 bits can hold.

local base, call, format, floor = KEYS[1], redis.call, string.format, math.floor
local PLACE, ID_AT, LAST = '%016.0f|%016.0f|', 35, 9007199254740991
local WAKE_MOST, WAKE_MS = 32, 1000
local BUCKET_US, BUCKETS = 5000000, 181
local STATES = {'queued', 'scheduled', 'running', 'succeeded', 'failed', 'cancelled'}
local FINAL = {succeeded = true, failed = true, cancelled = true}

local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- A full server refuses a script's first write if it could need memory, and lets all through once
-- something was written. What works jobs off must go on: it begins with a write that needs none.
local function pass_when_full()
  call('SREM', base .. 'paused', '')
end

-- What cannot be read as one is the default: no broken field may end an operation half way.
local function number(text, default)
  local value = tonumber(text or nil)
  -- NaN is in no range.
  return value and value >= -LAST and value <= LAST and value or default
end

-- Likewise: an unknown state is over.
local function state_of(text)
  for _, state in ipairs(STATES) do
    if text == state then return state end
  end
  return 'failed'
end

local function read(id)
  local got = call('HMGET', base .. 'job:' .. id, 'state', 'seq', 'queue', 'batch', 'priority',
    'due', 'at', 'unique', 'unique_for', 'lane', 'max', 'attempt', 'tries', 'started', 'cancel',
    'worker', 'log')
  local seq = number(got[2])
  -- Evicted or deleted by someone: not a job any more.
  if not (got[1] and seq and got[3]) then return nil end
  return {
    id = id, state = state_of(got[1]), seq = seq, queue = got[3], batch = got[4],
    priority = number(got[5], 0), due = number(got[6], now), at = number(got[7], now),
    unique = got[8], unique_for = number(got[9], 0), lane = got[10],
    max = number(got[11], 1), attempt = floor(number(got[12], 0)),
    tries = number(got[13], 0),
    started = got[14], cancel = got[15], worker = got[16], log = got[17] or ''
  }
end

local function write(job, ...)
  call('HSET', base .. 'job:' .. job.id, ...)
end

-- Waking

local rung = {}

local function wake(queue)
  rung[queue] = (rung[queue] or 0) + 1
end

local function ring(name, count)
  local marks = {}
  for index = 1, math.min(count, WAKE_MOST) do marks[index] = '' end
  local length = call('LPUSH', base .. name, unpack(marks))
  if length == #marks then
    -- Nobody blocks on a list that is not empty, and whoever comes later looks first.
    call('PEXPIRE', base .. name, WAKE_MS)
  elseif length > WAKE_MOST then
    call('LTRIM', base .. name, 0, WAKE_MOST - 1)
  end
end

-- The last thing that an operation does.
local function ring_all()
  local total = 0
  for queue, count in pairs(rung) do
    if count > 0 then
      total = total + count
      ring('wake:' .. queue, count)
    end
  end
  if total > 0 then ring('wake', total) end
end

-- Who may start

local is_open = {}

local function may_start(place, queue, priority)
  call('ZADD', base .. 'ready:' .. queue, 0 - priority, place)
  if not is_open[queue] then
    call('SADD', base .. 'open', queue)
    is_open[queue] = true
  end
  wake(queue)
end

local function may_not_start(place, queue)
  call('ZREM', base .. 'ready:' .. queue, place)
  if call('EXISTS', base .. 'ready:' .. queue) == 0 then
    call('SREM', base .. 'open', queue)
    is_open[queue] = nil
  end
end

local function lane_of(queue, lane)
  return #queue .. ':' .. queue .. lane
end

local unsettled = {}

-- Forget an id whose job was evicted or deleted by someone.
local function exorcise(id)
  for _, name in ipairs({'queued', 'scheduled', 'running', 'ended'}) do
    call('ZREM', base .. name, id)
  end
  for _, queue in ipairs(call('SMEMBERS', base .. 'queues')) do
    for _, state in ipairs(STATES) do call('ZREM', base .. state .. ':queue:' .. queue, id) end
  end
  local lane = call('HGET', base .. 'turns', id)
  if lane then
    call('HDEL', base .. 'turns', id)
    if call('HINCRBY', base .. 'busy', lane, -1) <= 0 then call('HDEL', base .. 'busy', lane) end
    unsettled[lane] = true
  end
end

local function first_of_lane(queue, lane)
  local line = base .. 'lane:' .. lane_of(queue, lane)
  while true do
    local got = call('ZRANGE', line, 0, 0, 'WITHSCORES')
    if not got[1] then return nil end
    local id = string.sub(got[1], ID_AT)
    local job = call('HMGET', base .. 'job:' .. id, 'state', 'max')
    if job[1] == 'queued' then return got[1], 0 - got[2], number(job[2], 1) end
    call('ZREM', line, got[1])
    if not job[1] then exorcise(id) end
  end
end

-- Of each lane only the first stands among those that may start, and only while fewer of its key
-- run than it allows. So those behind it cost nobody anything.
local function settle(lane)
  local busy = tonumber(call('HGET', base .. 'busy', lane) or 0)
  for _, queue in ipairs(call('SMEMBERS', base .. 'lanes:' .. lane)) do
    local first, priority, most = first_of_lane(queue, lane)
    if not first then call('SREM', base .. 'lanes:' .. lane, queue) end
    local head = first and busy < most and first or false
    local before = call('HGET', base .. 'heads', lane_of(queue, lane))
    if before ~= head then
      if before then
        call('HDEL', base .. 'heads', lane_of(queue, lane))
        may_not_start(before, queue)
      end
      if head then
        call('HSET', base .. 'heads', lane_of(queue, lane), head)
        may_start(head, queue, priority)
      end
    end
  end
end

local function settle_all()
  local lane = next(unsettled)
  while lane do
    unsettled[lane] = nil
    settle(lane)
    lane = next(unsettled)
  end
end

-- From state to state

local function place_of(job)
  return format(PLACE, job.due, job.seq) .. job.id
end

local function list(job, state)
  call('ZADD', base .. state .. ':queue:' .. job.queue, job.seq, job.id)
  if job.batch then call('ZADD', base .. state .. ':batch:' .. job.batch, job.seq, job.id) end
end

local function unlist(job)
  call('ZREM', base .. job.state .. ':queue:' .. job.queue, job.id)
  if job.batch then call('ZREM', base .. job.state .. ':batch:' .. job.batch, job.id) end
end

local function holds(job)
  return not FINAL[job.state] or now < job.at + job.unique_for
end

-- The job that keeps others of this unique key out.
local function holder(unique)
  local id = call('HGET', base .. 'unique', unique)
  local job = id and read(id)
  return job and holds(job) and job or nil
end

local function free_unique(job)
  if job.unique and call('HGET', base .. 'unique', job.unique) == job.id then
    call('HDEL', base .. 'unique', job.unique)
  end
end

local function trim_flow()
  local oldest = floor(now / BUCKET_US) - BUCKETS
  for _, name in ipairs(call('HKEYS', base .. 'flow')) do
    if tonumber(string.sub(name, 2)) < oldest then call('HDEL', base .. 'flow', name) end
  end
end

local function count(way, more)
  local name = way .. format('%.0f', floor(now / BUCKET_US))
  if call('HINCRBY', base .. 'flow', name, more) == more then trim_flow() end
end

local function leave(job)
  if job.state == 'queued' then
    call('ZREM', base .. 'queued', job.id)
    if job.lane then
      call('ZREM', base .. 'lane:' .. lane_of(job.queue, job.lane), place_of(job))
      unsettled[job.lane] = true
    else
      may_not_start(place_of(job), job.queue)
    end
  elseif FINAL[job.state] then
    call('ZREM', base .. 'ended', job.id)
  else
    call('ZREM', base .. job.state, job.id)
    if job.state == 'running' and job.lane and call('HDEL', base .. 'turns', job.id) == 1 then
      if call('HINCRBY', base .. 'busy', job.lane, -1) <= 0 then
        call('HDEL', base .. 'busy', job.lane)
      end
      unsettled[job.lane] = true
    end
  end
  unlist(job)
end

local function enter(job, state)
  job.state = state
  list(job, state)
  if state == 'queued' then
    call('ZADD', base .. 'queued', job.due, job.id)
    if job.lane then
      call('ZADD', base .. 'lane:' .. lane_of(job.queue, job.lane), 0 - job.priority, place_of(job))
      call('SADD', base .. 'lanes:' .. job.lane, job.queue)
      unsettled[job.lane] = true
    else
      may_start(place_of(job), job.queue, job.priority)
    end
  elseif state == 'scheduled' then
    call('ZADD', base .. 'scheduled', job.due, job.id)
    -- So that whoever waits learns until when.
    wake(job.queue)
  elseif state ~= 'running' then
    call('ZADD', base .. 'ended', now, job.id)
    count('o', 1)
    if not holds(job) then free_unique(job) end
  end
end

-- Make ready what came due, `most` at a time; whether there may be more.
local function promote(most)
  local due = call('ZRANGEBYSCORE', base .. 'scheduled', '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local job = read(id)
    if not job then
      exorcise(id)
    elseif job.state ~= 'scheduled' then
      call('ZREM', base .. 'scheduled', id)
    else
      leave(job)
      enter(job, 'queued')
      write(job, 'state', 'queued')
    end
  end
  settle_all()
  return #due == most
end

-- A line of the history: the attempt that runs is over.
local function logged(job, problem)
  return job.log .. format('[%.0f,%s,%s,%.0f,%s]\n', job.attempt, job.worker or '""',
    job.started or '0', now, problem or 'null')
end
