-- What people ask for. ARGV: time, then one of
--   cancel ID                      answers the outcome, empty when the job is unknown
--   cancel-batch NAME IS-FIRST     how many were cancelled, told, had ended before; `1` if more
--   retry ID                       the time and the job's hash
--   retry-failed KIND NAME QUEUE AFTER
--                                  how many, and the seq of the last seen, empty if no more.
--                                  KIND is queue or batch; QUEUE is empty, or `=` and a name
--   queues                         names of queues that have jobs
--   pause NAME, resume NAME        NAME as in `paused`; '*' resumes all
--   prune US KEEP START            how many that ended longer ago, or beyond KEEP if given, among
--                                  MOST from place START on; and the next START, -1 at the end
--   resize WORKER NUMBER US        `1`; 0 when the worker is not listed
--   forget WORKER
--   progress ID ATTEMPT START FRACTION

local MOST = 1000
local what, name = ARGV[2], ARGV[3]

local function cancel(job)
  if FINAL[job.state] then return 'already_finished' end
  if job.state == 'running' then
    write(job, 'cancel', '1')
    return 'cancelling'
  end
  leave(job)
  enter(job, 'cancelled')
  write(job, 'state', 'cancelled', 'cancel', '1', 'finished', now)
  return 'cancelled'
end

local function retry(job)
  local other = job.unique and holder(job.unique)
  if other and other.id ~= job.id then return false end
  leave(job)
  job.due = now
  enter(job, 'queued')
  if job.unique then call('HSET', base .. 'unique', job.unique, job.id) end
  call('HDEL', base .. 'job:' .. job.id, 'cancel')
  write(job, 'state', 'queued', 'due', now, 'tries', 0, 'progress', '0')
  return true
end

local function forget(id, queues)
  local job = read(id)
  if not job then return exorcise(id) end
  leave(job)
  free_unique(job)
  call('DEL', base .. 'job:' .. id)
  queues[job.queue] = true
end

-- Its unique key is taken though it ended.
local function holds_for_a_while(id)
  local job = read(id)
  return job and job.unique and job.unique_for > 0 and holds(job)
end

local function forget_empty(queues)
  for queue in pairs(queues) do
    local has_jobs = 0
    for _, state in ipairs(STATES) do
      has_jobs = has_jobs + call('EXISTS', base .. state .. ':queue:' .. queue)
    end
    if has_jobs == 0 then call('SREM', base .. 'queues', queue) end
  end
end

local function wake_all()
  for _, queue in ipairs(call('SMEMBERS', base .. 'open')) do wake(queue) end
end

local acts = {}

function acts.cancel()
  local job = read(name)
  return job and cancel(job) or ''
end

acts['cancel-batch'] = function()
  local counts = {0, 0, 0, ''}
  if ARGV[4] == '1' then
    for _, state in ipairs({'succeeded', 'failed', 'cancelled'}) do
      counts[3] = counts[3] + call('ZCARD', base .. state .. ':batch:' .. name)
    end
    for _, id in ipairs(call('ZRANGE', base .. 'running:batch:' .. name, 0, -1)) do
      local job = read(id)
      if job then cancel(job) else call('ZREM', base .. 'running:batch:' .. name, id) end
      counts[2] = counts[2] + (job and 1 or 0)
    end
  end
  for _, state in ipairs({'queued', 'scheduled'}) do
    local ids = call('ZRANGE', base .. state .. ':batch:' .. name, 0, MOST - 1)
    for _, id in ipairs(ids) do
      local job = read(id)
      if job then cancel(job) else call('ZREM', base .. state .. ':batch:' .. name, id) end
      counts[1] = counts[1] + (job and 1 or 0)
    end
    if #ids == MOST then counts[4] = '1' end
  end
  return counts
end

function acts.retry()
  local job = read(name)
  if job and (job.state == 'failed' or job.state == 'cancelled') then retry(job) end
  settle_all()
  return {format('%.0f', now), call('HGETALL', base .. 'job:' .. name)}
end

acts['retry-failed'] = function()
  local failed, queue, after = base .. 'failed:' .. name .. ':' .. ARGV[4], ARGV[5], ARGV[6]
  local retried, last = 0, ''
  local got = call('ZRANGEBYSCORE', failed, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, MOST)
  for at = 1, #got, 2 do
    local job = read(got[at])
    local is_asked_for = job and (queue == '' or queue == '=' .. job.queue)
    if is_asked_for and retry(job) then retried = retried + 1 end
    last = got[at + 1]
  end
  return {retried, last}
end

function acts.queues()
  return call('SMEMBERS', base .. 'queues')
end

function acts.pause()
  pass_when_full()
  return call('SADD', base .. 'paused', name)
end

function acts.resume()
  if name == '*' then call('DEL', base .. 'paused') else call('SREM', base .. 'paused', name) end
  wake_all()
end

function acts.prune()
  local ended, keep, start = base .. 'ended', tonumber(ARGV[4]), tonumber(ARGV[5])
  local old = call('ZCOUNT', ended, '-inf', '(' .. format('%.0f', now - name))
  local beyond = keep and call('ZCARD', ended) - keep or 0
  local ids, queues, gone, kept = call('ZRANGE', ended, start, start + MOST - 1), {}, 0, 0
  local is_over = #ids < MOST
  for place, id in ipairs(ids) do
    if start + place > old and gone >= beyond then
      is_over = true
      break
    end
    if holds_for_a_while(id) then
      kept = kept + 1
    else
      forget(id, queues)
      gone = gone + 1
    end
  end
  forget_empty(queues)
  trim_flow()
  return {gone, is_over and -1 or start + kept}
end

function acts.resize()
  local beat = call('ZSCORE', base .. 'beats', name)
  if not beat or tonumber(beat) < now - ARGV[5] then return 0 end
  pass_when_full()
  call('HSET', base .. 'wanted', name, ARGV[4])
  return 1
end

function acts.forget()
  call('ZREM', base .. 'beats', name)
  call('HDEL', base .. 'workers', name)
  call('HDEL', base .. 'wanted', name)
end

function acts.progress()
  local job = read(name)
  local is_held = job and job.state == 'running' and job.attempt == tonumber(ARGV[4])
    and job.started == ARGV[5]
  if is_held then
    pass_when_full()
    write(job, 'progress', ARGV[6])
  end
end

if what == 'cancel' or what == 'cancel-batch' then pass_when_full() end
local answer = acts[what]()
settle_all()
ring_all()
return answer
