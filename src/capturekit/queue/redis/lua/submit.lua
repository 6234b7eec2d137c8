-- Take jobs, all or none. ARGV: time, most that may wait (or empty), version, then for each job
-- its id, its JSON without id and payload, and its payload.
-- Answers -1 when the queue is full, the number of jobs when all were new, else for each job
-- an empty text when it is new, or `STATE:ID` of the job that stands.

local most_waiting, version = tonumber(ARGV[2]), ARGV[3]
local read_before, answers, new, new_ids, new_keys = {}, {}, {}, {}, {}

local function standing(id, unique)
  if new_ids[id] then return new_ids[id] end
  local got = call('HMGET', base .. 'job:' .. id, 'state', 'due')
  if got[1] then return {id = id, state = state_of(got[1]), due = number(got[2], now)} end
  return unique and (new_keys[unique] or holder(unique))
end

for at = 4, #ARGV, 3 do
  local id, text = ARGV[at], ARGV[at + 1]
  local form = read_before[text]
  if not form then
    form = cjson.decode(text)
    read_before[text] = form
  end
  local other = standing(id, form.unique_key)
  if other then
    local is_due = other.state == 'scheduled' and other.due <= now
    answers[#answers + 1] = (is_due and 'queued' or other.state) .. ':' .. other.id
  else
    local job = {
      id = id, queue = form.queue, batch = form.batch, lane = form.concurrency_key,
      unique = form.unique_key, unique_for = form.unique_for_s or 0,
      priority = form.priority, at = now,
      due = math.min(LAST, now + floor(form.delay_s * 1000000 + 0.5)),
      state = form.delay_s > 0 and 'scheduled' or 'queued',
      max = form.max_running, text = text, payload = ARGV[at + 2]
    }
    new[#new + 1], new_ids[id], answers[#answers + 1] = job, job, ''
    if job.unique then new_keys[job.unique] = job end
  end
end

if #new == 0 then return answers end
if most_waiting then
  local waiting = call('ZCARD', base .. 'queued') + call('ZCARD', base .. 'scheduled')
  if waiting + #new > most_waiting then return -1 end
end

-- The first write. On a full server it fails, and with it all.
local seq = call('INCRBY', base .. 'seq', #new) - #new
local has_queue = {}
for index, job in ipairs(new) do
  job.seq = seq + index
  write(job, 'v', version, 'job', job.text, 'payload', job.payload, 'state', job.state,
    'queue', job.queue, 'seq', job.seq, 'priority', job.priority, 'due', job.due, 'at', job.at)
  if job.batch then write(job, 'batch', job.batch) end
  if job.lane then write(job, 'lane', job.lane, 'max', job.max) end
  if job.unique then
    write(job, 'unique', job.unique, 'unique_for', floor(job.unique_for * 1000000))
    call('HSET', base .. 'unique', job.unique, job.id)
  end
  if not has_queue[job.queue] then
    call('SADD', base .. 'queues', job.queue)
    has_queue[job.queue] = true
  end
  enter(job, job.state)
end
count('i', #new)
settle_all()
ring_all()
return #new == #answers and #new or answers
