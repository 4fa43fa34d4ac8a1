-- Operations of the seam, each a function: one statement, and so all or nothing. Changes of a job's
-- state are BullMQ's own functions wherever it has one.

CREATE OR REPLACE FUNCTION offload_now() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

CREATE OR REPLACE FUNCTION offload_jsonb(p_text text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  -- A block with an exception is a transaction of its own: not for what cannot fail.
  IF p_text ~ '^(null|true|false|[1-9][0-9]{0,14}|"[^"\\[:cntrl:]]*")$' THEN
    RETURN p_text::jsonb;
  END IF;
  BEGIN
    RETURN p_text::jsonb;
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    -- As of a character U+0000, which jsonb has not, or of a hundred thousand brackets. Ours is in
    -- text.
    RETURN 'null'::jsonb;
  END;
END $$;

-- Tell of what happened to many jobs of a queue, as `publish_event` of BullMQ's does of one: in one
-- statement, with one notification, and the oldest events forgotten now and then.
CREATE OR REPLACE FUNCTION offload_publish(p_queue text, p_event text, p_data jsonb[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v_first bigint;
  v_last bigint;
  v_most integer;
BEGIN
  WITH told AS (INSERT INTO event (queue, event, data, created_at_ms)
    SELECT p_queue, p_event, d, offload_now() FROM unnest(p_data) WITH ORDINALITY u(d, n)
    ORDER BY n RETURNING id)
    SELECT min(id), max(id) INTO v_first, v_last FROM told;
  IF v_last IS NULL THEN
    RETURN;
  END IF;
  IF pg_try_advisory_xact_lock(hashtext('bullmq:evnotify:' || p_queue)) THEN
    PERFORM pg_notify('bullmq_events', p_queue);
  END IF;
  IF (v_first - 1) / 256 < v_last / 256 THEN
    v_most := COALESCE((SELECT value::integer FROM meta WHERE queue = p_queue
      AND field = 'opts.maxLenEvents'), 10000);
    IF v_most > 0 AND pg_try_advisory_xact_lock(hashtext('bullmq:evtrim:' || p_queue)) THEN
      DELETE FROM event WHERE queue = p_queue AND id <= v_last - v_most;
    END IF;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION offload_state(p_job job, p_ours offload_job) RETURNS text
LANGUAGE sql AS $$
  SELECT CASE
    WHEN p_job.state = 'failed' AND COALESCE(p_ours.is_cancelled, false) THEN 'cancelled'
    WHEN p_job.state = 'waiting-children' THEN 'waiting'
    ELSE p_job.state::text END
$$;

-- A job as Python reads it; fields are named as in Redis. Its plan is kept from call to call, as that
-- of a function in SQL is not.
CREATE OR REPLACE FUNCTION offload_snapshot(p_job job, p_ours offload_job) RETURNS jsonb
LANGUAGE plpgsql AS $$
BEGIN
  RETURN jsonb_build_array(p_job.queue, p_job.id, offload_state(p_job, p_ours),
    (SELECT count(*) FROM job_log WHERE queue = p_job.queue AND job_id = p_job.id),
    CASE WHEN p_job.state = 'delayed' THEN p_job.process_at_ms::text ELSE '' END,
    jsonb_strip_nulls(jsonb_build_object(
      'name', p_job.name,
      'data', COALESCE(p_ours.arguments, p_job.data::text),
      'opts', p_job.opts::text,
      'timestamp', p_job.added_at_ms::text,
      'processedOn', p_job.processed_at_ms::text,
      'finishedOn', p_job.finished_at_ms::text,
      'atm', p_job.attempts_made::text,
      'ats', p_job.attempts_started::text,
      'pb', p_job.processed_by,
      'progress', COALESCE(p_ours.progress, p_job.progress::text),
      'returnvalue', COALESCE(p_ours.result, p_job.return_value::text),
      'failedReason', p_job.failed_reason,
      'stacktrace', p_job.stacktrace::text,
      'o:put', p_ours.put,
      'o:due', p_ours.due_us::text,
      'o:crashes', p_ours.crashes::text,
      'o:history', p_ours.history,
      'o:error', p_ours.error,
      'o:cancel', CASE WHEN p_ours.is_cancel_asked THEN '1' END,
      'o:cancelled', CASE WHEN p_ours.is_cancelled THEN '1' END)));
END $$;

-- Queue of a job, and the id that BullMQ knows it by. By indices, whatever the tables were like when
-- the plan was made, which a connection keeps; an id beside others in a list would not be looked up
-- by one, but compared with each job of the queue.
CREATE OR REPLACE FUNCTION offload_find(p_id text, p_raw text, OUT queue text, OUT id text)
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
BEGIN
  SELECT o.queue, o.id INTO queue, id FROM unnest(ARRAY[p_id, NULLIF(p_raw, '')])
    WITH ORDINALITY u(id, n), LATERAL (SELECT * FROM offload_job WHERE offload_job.id = u.id
    LIMIT 1) o ORDER BY n LIMIT 1;
  IF queue IS NULL THEN
    -- Of a producer of BullMQ's, and not seen before. Its index begins with the queue: written
    -- otherwise, Postgres reads every job.
    SELECT f.queue, f.id INTO queue, id
      FROM (SELECT m.queue FROM meta m UNION SELECT q.queue FROM offload_queue q) known,
      unnest(ARRAY[p_id, NULLIF(p_raw, '')]) u(id),
      LATERAL (SELECT j.queue, j.id FROM job j WHERE j.queue = known.queue AND j.id = u.id LIMIT 1) f
      LIMIT 1;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION offload_put(p_jobs jsonb, p_most integer) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v jsonb;
  v_id text;
  v_answer text;
  v_answers jsonb := '[]';
  v_now bigint := offload_now();
  v_delay bigint;
  v_opts jsonb;
  v_count bigint;
BEGIN
  -- Two producers of one id, or of the last free place, take turns.
  PERFORM pg_advisory_xact_lock(hashtext('offload:put'));
  FOR v IN SELECT * FROM jsonb_array_elements(p_jobs) LOOP
    v_id := v->>1;
    INSERT INTO offload_queue VALUES (v->>0) ON CONFLICT DO NOTHING;
    v_answer := (SELECT f.id FROM offload_find(v_id, v->>2) f);
    IF v_answer IS NULL THEN
      v_opts := (v->>5)::jsonb || jsonb_build_object('jobId', v_id);
      v_delay := 0;
      IF v->>7 <> '' THEN
        v_delay := GREATEST(ceil((v->>7)::numeric / 1000) - v_now, 0);
        IF v_delay > 0 THEN
          v_opts := v_opts || jsonb_build_object('delay', v_delay);
        END IF;
      END IF;
      IF v->>8 <> '' THEN
        v_opts := v_opts || jsonb_build_object('deduplication', jsonb_strip_nulls(
          jsonb_build_object('id', v->>8, 'ttl', NULLIF(v->>9, '')::bigint)));
      END IF;
      v_answer := add_job(v->>0, v_id, v->>3, offload_jsonb(v->>4), v_opts, (v->>6)::integer,
        v_delay, v_now, COALESCE((v_opts->>'attempts')::integer, 1), NULL, NULL, NULL,
        NULLIF(v->>8, ''), NULL, false);
      IF v_answer = v_id THEN
        INSERT INTO offload_job (queue, id, put, arguments, due_us, deadline_ms, deadline, keep)
        VALUES (v->>0, v_id, v->>11, v->>4, CASE WHEN v_delay > 0 THEN (v->>7)::bigint END,
          NULLIF(split_part(v->>10, ' ', 1), '')::bigint, NULLIF(v->>10, ''),
          NULLIF(v->>12, '')::double precision);
      END IF;
    END IF;
    v_answers := v_answers || to_jsonb(v_answer);
  END LOOP;
  IF p_most IS NOT NULL THEN
    FOR v_id IN SELECT DISTINCT each->>0 FROM jsonb_array_elements(p_jobs) each LOOP
      SELECT count(*) INTO v_count FROM job WHERE queue = v_id AND state IN ('waiting', 'delayed');
      IF v_count > p_most THEN
        RAISE EXCEPTION '%', jsonb_build_array(v_id, v_count) USING ERRCODE = 'OF001';
      END IF;
    END LOOP;
  END IF;
  RETURN v_answers;
END $$;

CREATE OR REPLACE FUNCTION offload_end_unstarted(p_queue text, p_id text, p_message text,
  p_error text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v_attempts integer;
BEGIN
  UPDATE job SET state = 'active', lock_token = 'offload' WHERE queue = p_queue AND id = p_id
    RETURNING attempts_made INTO v_attempts;
  INSERT INTO offload_job (queue, id) VALUES (p_queue, p_id) ON CONFLICT DO NOTHING;
  UPDATE offload_job SET is_cancelled = p_error IS NULL, is_cancel_asked = false, due_us = NULL,
    error = COALESCE(p_error, error) WHERE queue = p_queue AND id = p_id;
  PERFORM offload_fail(p_queue, p_id, 'offload', p_message, '[]', v_attempts);
END $$;

CREATE OR REPLACE FUNCTION offload_fail(p_queue text, p_id text, p_token text, p_message text,
  p_stack text, p_attempts integer) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM move_to_failed(p_queue, p_id, p_token, p_message, p_stack::jsonb, offload_now(), false,
    NULL, NULL);
  UPDATE job SET attempts_made = p_attempts WHERE queue = p_queue AND id = p_id;
  UPDATE offload_job SET is_cancel_asked = false, forget_ms = offload_now() + keep * 1000
    WHERE queue = p_queue AND id = p_id;
END $$;

CREATE OR REPLACE FUNCTION offload_expire(p_queue text, p_id text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v offload_job;
  v_message text;
BEGIN
  SELECT * INTO v FROM offload_job WHERE queue = p_queue AND id = p_id;
  v_message := 'the deadline ' || split_part(v.deadline, ' ', 2)
    || ' passed before an attempt could begin';
  IF v.error IS NOT NULL THEN
    v_message := v_message || '; the last one failed with ' || (v.error::json->>0) || ': '
      || (v.error::json->>1);
  END IF;
  PERFORM offload_end_unstarted(p_queue, p_id, v_message,
    json_build_array('offload.errors.DeadlineError', v_message, '')::text);
END $$;

CREATE OR REPLACE FUNCTION offload_cancel(p_id text, p_raw text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  f record;
  v_state text;
BEGIN
  SELECT * INTO f FROM offload_find(p_id, p_raw);
  IF f.queue IS NULL THEN
    RETURN 'unknown';
  END IF;
  SELECT state INTO v_state FROM job WHERE queue = f.queue AND id = f.id FOR UPDATE;
  IF v_state IN ('completed', 'failed') THEN
    RETURN 'over';
  ELSIF v_state = 'active' THEN
    INSERT INTO offload_job (queue, id) VALUES (f.queue, f.id) ON CONFLICT DO NOTHING;
    UPDATE offload_job SET is_cancel_asked = true WHERE queue = f.queue AND id = f.id;
    RETURN 'asked';
  END IF;
  PERFORM offload_end_unstarted(f.queue, f.id, 'cancelled', NULL);
  RETURN 'removed';
END $$;

CREATE OR REPLACE FUNCTION offload_requeue(p_id text, p_raw text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  f record;
  v job;
  v_ours offload_job;
BEGIN
  SELECT * INTO f FROM offload_find(p_id, p_raw);
  IF f.queue IS NULL THEN
    RETURN 'unknown';
  END IF;
  SELECT * INTO v FROM job WHERE queue = f.queue AND id = f.id FOR UPDATE;
  SELECT * INTO v_ours FROM offload_job WHERE queue = f.queue AND id = f.id;
  IF v.state <> 'failed' THEN
    RETURN offload_state(v, v_ours);
  END IF;
  PERFORM reprocess_job(f.queue, f.id, 'failed', false, true, false);
  UPDATE job SET progress = NULL, processed_by = NULL, stalled_count = 0
    WHERE queue = f.queue AND id = f.id;
  UPDATE offload_job SET is_cancelled = false, error = NULL, crashes = 0, progress = NULL,
    forget_ms = NULL WHERE queue = f.queue AND id = f.id;
  IF v_ours.deadline_ms <= offload_now() THEN
    UPDATE offload_job SET deadline = NULL, deadline_ms = NULL,
      put = (put::jsonb #- '{options,deadline}')::text WHERE queue = f.queue AND id = f.id;
  END IF;
  IF v.dedup_id IS NOT NULL AND v.opts->'deduplication'->'ttl' IS NULL THEN
    INSERT INTO dedup (queue, dedup_id, job_id) VALUES (f.queue, v.dedup_id, f.id)
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN '';
END $$;

CREATE OR REPLACE FUNCTION offload_remove(p_ids text[], p_raws text[]) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  f record;
  v_count integer := 0;
BEGIN
  FOR f IN SELECT g.queue, g.id FROM unnest(p_ids, p_raws) u(id, raw),
    LATERAL offload_find(u.id, u.raw) g JOIN job j ON j.queue = g.queue AND j.id = g.id
    WHERE j.state IN ('completed', 'failed') LOOP
    PERFORM remove(f.queue, f.id, false);
    v_count := v_count + 1;
  END LOOP;
  RETURN v_count;
END $$;

-- Claim up to `p_limit` jobs. Return them, and ms until a delayed one is due, or -1.
--
-- Here and in what ends many attempts, Postgres is told to make one plan of each statement, which goes
-- by keys. Left alone it makes them anew at each call, for the length of an array, which takes longer
-- than to run them; or it keeps one of a time when the table was empty, which reads all of it, at
-- each claim. What it may not do has a price that would have it compile the statement first, for
-- seconds: hence no `jit`. And the queue is joined, or compared inside of a LATERAL with a LIMIT, as the
-- id is: compared by itself, it would have each claim read all jobs of the queue.
CREATE OR REPLACE FUNCTION offload_claim(p_worker text, p_lease bigint, p_limit integer,
  p_token text, p_functions text[], p_queues text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_now bigint := offload_now();
  v_queue text;
  v record;
  v_claimed jsonb[] := '{}';
  v_begun jsonb[];
  v_events jsonb[];
  v_ids text[];
  v_new text[];
  v_expired text[];
  v_stale text[];
  v_id text;
  v_number integer := 0;
  v_found integer;
  v_room integer;
  v_due bigint;
BEGIN
  FOREACH v_queue IN ARRAY p_queues LOOP
    CONTINUE WHEN EXISTS (SELECT 1 FROM meta WHERE queue = v_queue AND field = 'paused');
    FOR v IN SELECT id FROM job WHERE queue = v_queue AND state = 'delayed'
      AND process_at_ms <= v_now ORDER BY process_at_ms FOR UPDATE SKIP LOCKED LIMIT 500 LOOP
      UPDATE job SET state = 'waiting', delay_ms = 0, seq = nextval('job_seq')
        WHERE queue = v_queue AND id = v.id;
      UPDATE offload_job SET due_us = NULL WHERE queue = v_queue AND id = v.id;
      PERFORM publish_event(v_queue, 'waiting', jsonb_build_object('jobId', v.id,
        'prev', 'delayed'));
    END LOOP;
    LOOP
      v_room := p_limit - cardinality(v_claimed);
      SELECT LEAST(v_room, value::integer - (SELECT count(*) FROM job j WHERE j.queue = v_queue
        AND j.state = 'active')) INTO v_found FROM meta WHERE queue = v_queue
        AND field = 'concurrency';
      v_room := COALESCE(v_found, v_room);
      EXIT WHEN v_room <= 0;
      v_ids := ARRAY(SELECT j.id FROM unnest(p_functions) f(name), LATERAL (SELECT id, priority, seq
        FROM job WHERE queue = v_queue AND state = 'waiting' AND job.name = f.name
        ORDER BY priority, seq FOR UPDATE SKIP LOCKED LIMIT v_room) j
        ORDER BY j.priority, j.seq LIMIT v_room);
      EXIT WHEN v_ids = '{}';
      SELECT array_agg(u.id) FILTER (WHERE o.id IS NULL),
        array_agg(u.id) FILTER (WHERE o.deadline_ms <= v_now),
        array_agg(u.id) FILTER (WHERE o.progress IS NOT NULL OR o.due_us IS NOT NULL)
        INTO v_new, v_expired, v_stale FROM unnest(v_ids) u(id) LEFT JOIN LATERAL (
        SELECT * FROM offload_job WHERE queue = v_queue AND offload_job.id = u.id LIMIT 1) o ON true;
      -- A producer of BullMQ's has put them.
      FOREACH v_id IN ARRAY COALESCE(v_new, '{}') LOOP
        INSERT INTO offload_job (queue, id) VALUES (v_queue, v_id) ON CONFLICT DO NOTHING;
      END LOOP;
      FOREACH v_id IN ARRAY COALESCE(v_expired, '{}') LOOP
        PERFORM offload_expire(v_queue, v_id);
        v_ids := array_remove(v_ids, v_id);
      END LOOP;
      FOREACH v_id IN ARRAY COALESCE(v_stale, '{}') LOOP
        UPDATE offload_job SET progress = NULL, due_us = NULL WHERE queue = v_queue AND id = v_id;
      END LOOP;
      WITH begun AS (UPDATE job SET state = 'active', lock_token = p_token || '.' || v_number + u.n,
        locked_until_ms = v_now + p_lease, processed_at_ms = v_now, processed_by = p_worker,
        progress = NULL, attempts_started = attempts_started + 1
        FROM unnest(array_fill(v_queue, ARRAY[cardinality(v_ids)]), v_ids) WITH ORDINALITY
        u(queue, id, n) WHERE job.queue = u.queue AND job.id = u.id
        RETURNING job AS j, u.n)
        SELECT array_agg(jsonb_build_array((b.j).lock_token, offload_snapshot(b.j, l.o))
          ORDER BY b.n),
          array_agg(jsonb_build_object('jobId', (b.j).id, 'prev', 'waiting') ORDER BY b.n)
        INTO v_begun, v_events FROM begun b, LATERAL (SELECT o FROM offload_job o
        WHERE o.queue = v_queue AND o.id = (b.j).id LIMIT 1) l;
      v_claimed := v_claimed || COALESCE(v_begun, '{}');
      v_number := v_number + cardinality(v_ids);
      PERFORM offload_publish(v_queue, 'active', v_events);
    END LOOP;
  END LOOP;
  IF v_claimed = '{}' THEN
    SELECT min(process_at_ms) - v_now INTO v_due FROM job WHERE queue = ANY (p_queues)
      AND state = 'delayed';
  END IF;
  RETURN jsonb_build_array(to_jsonb(v_claimed), GREATEST(v_due, 0));
END $$;

CREATE OR REPLACE FUNCTION offload_extend(p_lease bigint, p_queues text[], p_ids text[],
  p_tokens text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v record;
  v_found jsonb := '{}';
BEGIN
  FOR v IN SELECT j.queue, j.id, u.n FROM (SELECT * FROM unnest(p_queues, p_ids, p_tokens)
    WITH ORDINALITY t(queue, id, token, n) ORDER BY t.queue, t.id) u, LATERAL (SELECT job.queue, job.id
    FROM job WHERE job.queue = u.queue AND job.id = u.id AND state = 'active'
    AND lock_token = u.token LIMIT 1 FOR UPDATE) j LOOP
    UPDATE job SET locked_until_ms = offload_now() + p_lease, stalled_marked = false
      WHERE queue = v.queue AND id = v.id;
    v_found := v_found || jsonb_build_object(v.n, (SELECT is_cancel_asked FROM offload_job
      WHERE queue = v.queue AND id = v.id));
  END LOOP;
  RETURN v_found;
END $$;

CREATE OR REPLACE FUNCTION offload_keep_attempt(p_job job, p_outcome text, p_error text)
RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
  UPDATE offload_job SET history = (SELECT string_agg(line, E'\n' ORDER BY n) FROM (
    SELECT line, n FROM regexp_split_to_table(COALESCE(history || E'\n', '')
      || json_build_array(p_outcome, p_job.processed_at_ms, offload_now(),
        COALESCE(p_job.processed_by, ''), COALESCE(p_error, ''))::text, E'\n')
    WITH ORDINALITY t(line, n) ORDER BY n DESC LIMIT 100) latest)
  WHERE queue = p_job.queue AND id = p_job.id
$$;
