-- An attempt ended, if the lease is still held. ARGV: time, id, attempt, its start in
-- microseconds, how: `succeeded` with the result; `failed` with the error, `1` if for good, and
-- microseconds to wait; `cancelled`; `released` with microseconds to wait; `unreadable` with the
-- error. Answers the new state, empty when the lease is lost.

local how, what = ARGV[5], ARGV[6]
local job = read(ARGV[2])
local is_held = job and job.state == 'running' and job.attempt == tonumber(ARGV[3])
  and job.started == ARGV[4]
if not is_held then return '' end

local function waits_until(wait_us)
  return math.min(LAST, now + tonumber(wait_us))
end

local function go(state, due, ...)
  leave(job)
  job.due = due
  enter(job, state)
  write(job, 'state', state, 'due', due, 'finished', now, ...)
  settle_all()
  ring_all()
  return state
end

if how == 'succeeded' then
  return go(how, job.due, 'result', what, 'progress', '1', 'log', logged(job))
elseif how == 'failed' then
  local is_last, log = ARGV[7] == '1', logged(job, what)
  if job.cancel then return go('cancelled', job.due, 'error', what, 'log', log) end
  if is_last then return go('failed', job.due, 'error', what, 'log', log) end
  return go('scheduled', waits_until(ARGV[8]), 'error', what, 'log', log)
elseif how == 'cancelled' or (how == 'released' and job.cancel) then
  return go('cancelled', job.due, 'log', logged(job))
elseif how == 'released' then
  local wait_us = tonumber(what)
  local state = wait_us > 0 and 'scheduled' or 'queued'
  local due = wait_us > 0 and waits_until(wait_us) or job.due
  return go(state, due, 'tries', job.tries - 1, 'progress', '0')
else
  return go('failed', job.due, 'error', what, 'tries', job.tries - 1)
end
