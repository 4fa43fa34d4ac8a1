-- What BullMQ's table `job` has no column for; see offload/jobs/_bullmq/jobs.py.
--
-- JSON is kept as text beside BullMQ's jsonb, which changes it, and refuses some.
CREATE TABLE IF NOT EXISTS offload_job (
  queue text NOT NULL,
  id text NOT NULL,
  number bigserial,
  put text,
  arguments text,
  result text,
  progress text,
  due_us bigint,
  deadline_ms bigint,
  deadline text,
  keep double precision,
  forget_ms bigint,
  is_cancel_asked boolean NOT NULL DEFAULT false,
  is_cancelled boolean NOT NULL DEFAULT false,
  crashes integer NOT NULL DEFAULT 0,
  history text,
  error text,
  PRIMARY KEY (queue, id),
  FOREIGN KEY (queue, id) REFERENCES job (queue, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS offload_job_id ON offload_job (id);
CREATE INDEX IF NOT EXISTS offload_job_number ON offload_job (number);
CREATE INDEX IF NOT EXISTS offload_job_deadline ON offload_job (deadline_ms)
  WHERE deadline_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS offload_job_forget ON offload_job (forget_ms)
  WHERE forget_ms IS NOT NULL;
-- Straight to the next job of a function, however many of others wait before it.
CREATE INDEX IF NOT EXISTS offload_job_waiting ON job (queue, name, priority, seq)
  WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS offload_queue (queue text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS offload_version (version integer NOT NULL);
