CREATE OR REPLACE FUNCTION offload_put_back(p_queue text, p_id text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE job SET state = 'waiting', lock_token = NULL, locked_until_ms = NULL,
    stalled_marked = false WHERE queue = p_queue AND id = p_id;
  PERFORM publish_event(p_queue, 'waiting', jsonb_build_object('jobId', p_id, 'prev', 'active'));
  PERFORM pg_notify('bullmq_jobs', p_queue);
END $$;

-- End an attempt. The decisions are those of `offload.jobs._decisions.settle`.
CREATE OR REPLACE FUNCTION offload_finish(p_queue text, p_id text, p_token text, p_kind text,
  p_outcome text, p_attempts integer, p_crashes integer, p_value text, p_error text, p_stack text,
  p_delay bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v job;
  v_ours offload_job;
  v_due bigint;
BEGIN
  SELECT * INTO v FROM job WHERE queue = p_queue AND id = p_id FOR UPDATE;
  IF v.state IS DISTINCT FROM 'active' OR v.lock_token IS DISTINCT FROM p_token THEN
    RETURN false;
  END IF;
  IF p_kind = 'complete' THEN
    -- Each write of a row is one of its indices, too.
    IF v.failed_reason IS NOT NULL OR v.stacktrace IS NOT NULL THEN
      UPDATE job SET failed_reason = NULL, stacktrace = NULL WHERE queue = p_queue AND id = p_id;
    END IF;
    UPDATE offload_job SET result = p_value, error = NULL, is_cancel_asked = false,
      forget_ms = offload_now() + keep * 1000 WHERE queue = p_queue AND id = p_id;
    PERFORM move_to_completed(p_queue, p_id, p_token, offload_jsonb(p_value), offload_now(),
      COALESCE(v.opts->'removeOnComplete' = 'true', false), NULL, NULL);
    RETURN true;
  END IF;
  PERFORM offload_keep_attempt(v, p_outcome, p_error);
  UPDATE offload_job SET crashes = crashes + p_crashes, error = COALESCE(NULLIF(p_error, ''), error)
    WHERE queue = p_queue AND id = p_id RETURNING * INTO v_ours;
  IF p_error <> '' THEN
    UPDATE job SET failed_reason = p_value, stacktrace = offload_jsonb(p_stack)
      WHERE queue = p_queue AND id = p_id;
  END IF;
  IF p_kind = 'fail' THEN
    PERFORM offload_fail(p_queue, p_id, p_token, p_value, p_stack, v.attempts_made + p_attempts);
  ELSIF p_kind = 'cancel' OR v_ours.is_cancel_asked THEN
    UPDATE offload_job SET is_cancelled = true WHERE queue = p_queue AND id = p_id;
    PERFORM offload_fail(p_queue, p_id, p_token, 'cancelled', NULL, v.attempts_made + p_attempts);
  ELSIF p_kind = 'release' THEN
    PERFORM offload_put_back(p_queue, p_id);
  ELSIF p_kind = 'delay' THEN
    v_due := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + p_delay;
    PERFORM move_to_delayed(p_queue, p_id, p_token, ceil(v_due / 1000.0)::bigint, p_delay / 1000,
      true, NULL, NULL);
    UPDATE offload_job SET due_us = v_due WHERE queue = p_queue AND id = p_id;
    UPDATE job SET attempts_made = v.attempts_made + p_attempts WHERE queue = p_queue
      AND id = p_id;
  ELSE
    PERFORM retry_job(p_queue, p_id, p_token, false, NULL, NULL);
    UPDATE job SET attempts_made = v.attempts_made + p_attempts WHERE queue = p_queue
      AND id = p_id;
  END IF;
  RETURN true;
END $$;

-- End attempts that have completed, in few statements, however many they are. What more there is to
-- do for a job of a flow, with a deduplication key, or to be removed at once, only BullMQ's own
-- `move_to_completed` knows: these are left out, as are those of others by now. Their rows are locked
-- already. Return the numbers of the reports that were stored.
CREATE OR REPLACE FUNCTION offload_complete(p_reports jsonb) RETURNS bigint[]
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v record;
  v_now bigint := offload_now();
  v_stored bigint[] := '{}';
BEGIN
  FOR v IN WITH ended AS (UPDATE job j SET state = 'completed', return_value = offload_jsonb(r->>7),
    finished_at_ms = v_now, lock_token = NULL, locked_until_ms = NULL, failed_reason = NULL,
    stacktrace = NULL, attempts_made = attempts_made + 1
    FROM jsonb_array_elements(p_reports) WITH ORDINALITY u(r, n)
    WHERE r->>3 = 'complete' AND j.queue = r->>0 AND j.id = r->>1
    AND j.state::text = 'active' AND j.lock_token = r->>2 AND j.parent_id IS NULL AND j.dedup_id IS NULL
    AND j.opts->'removeOnComplete' IS DISTINCT FROM 'true'
    AND NOT EXISTS (SELECT 1 FROM job_dependency d WHERE d.parent_queue = j.queue
      AND d.parent_id = j.id)
    RETURNING j.queue, j.id, n, r->>7 AS value, jsonb_build_object('jobId', j.id, 'returnvalue',
      COALESCE(j.return_value, 'null'::jsonb)::text, 'prev', 'active') AS event),
    ours AS (UPDATE offload_job o SET result = e.value, error = NULL, is_cancel_asked = false,
      forget_ms = v_now + keep * 1000 FROM ended e WHERE o.queue = e.queue AND o.id = e.id)
    SELECT queue, array_agg(n) AS numbers, array_agg(event ORDER BY n) AS events FROM ended
      GROUP BY queue LOOP
    v_stored := v_stored || v.numbers;
    PERFORM offload_publish(v.queue, 'completed', v.events);
    IF NOT EXISTS (SELECT 1 FROM job WHERE queue = v.queue AND state = 'active') AND (
      EXISTS (SELECT 1 FROM meta WHERE queue = v.queue AND field = 'paused' AND value = '1')
      OR NOT EXISTS (SELECT 1 FROM job WHERE queue = v.queue AND state = 'waiting')) THEN
      PERFORM publish_event(v.queue, 'drained', '{}');
    END IF;
  END LOOP;
  RETURN v_stored;
END $$;

-- End many attempts, and claim where `p_limit` is given: one commit for all of it. Return whether
-- each was stored, and what `offload_claim` returns. Rows are locked in the order that
-- `offload_extend` has, so that neither waits for the other in a circle.
CREATE OR REPLACE FUNCTION offload_finish_all(p_reports jsonb, p_worker text, p_lease bigint,
  p_limit integer, p_token text, p_functions text[], p_queues text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v record;
  v_completed bigint[];
  v_stored jsonb;
BEGIN
  PERFORM 1 FROM (SELECT r->>0 AS queue, r->>1 AS id FROM jsonb_array_elements(p_reports) r
    ORDER BY 1, 2) u, LATERAL (SELECT FROM job j WHERE j.queue = u.queue AND j.id = u.id LIMIT 1
    FOR UPDATE) locked;
  v_completed := offload_complete(p_reports);
  v_stored := COALESCE((SELECT jsonb_object_agg(n, true) FROM unnest(v_completed) u(n)), '{}');
  FOR v IN SELECT r, n FROM jsonb_array_elements(p_reports) WITH ORDINALITY u(r, n)
    WHERE NOT n = ANY (v_completed) ORDER BY r->>0, r->>1, n LOOP
    v_stored := v_stored || jsonb_build_object(v.n, offload_finish(v.r->>0, v.r->>1, v.r->>2,
      v.r->>3, v.r->>4, (v.r->>5)::integer, (v.r->>6)::integer, v.r->>7, v.r->>8, v.r->>9,
      (v.r->>10)::bigint));
  END LOOP;
  RETURN jsonb_build_array(v_stored, CASE WHEN p_limit IS NOT NULL THEN
    offload_claim(p_worker, p_lease, p_limit, p_token, p_functions, p_queues) END);
END $$;

CREATE OR REPLACE FUNCTION offload_progress(p_queue text, p_id text, p_token text, p_value text)
RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  -- Not synced: a crash of the server may forget the latest progress and log lines.
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM 1 FROM job WHERE queue = p_queue AND id = p_id AND state = 'active'
    AND lock_token = p_token FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM update_progress(p_queue, p_id, offload_jsonb(p_value));
  UPDATE offload_job SET progress = p_value WHERE queue = p_queue AND id = p_id;
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION offload_log(p_queue text, p_id text, p_token text, p_rows text[])
RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v_count bigint;
  v_most integer;
BEGIN
  -- Not synced: a crash of the server may forget the latest progress and log lines.
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM 1 FROM job WHERE queue = p_queue AND id = p_id AND state = 'active'
    AND lock_token = p_token FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  SELECT count(*) INTO v_count FROM job_log WHERE queue = p_queue AND job_id = p_id;
  SELECT (put::jsonb->'options'->>'max_logs')::integer INTO v_most FROM offload_job
    WHERE queue = p_queue AND id = p_id;
  INSERT INTO job_log (queue, job_id, idx, row)
    SELECT p_queue, p_id, v_count + n - 1, line FROM unnest(p_rows) WITH ORDINALITY u(line, n)
    WHERE v_count + n <= COALESCE(v_most, 1000);
  IF cardinality(p_rows) > 0 THEN
    PERFORM publish_event(p_queue, 'log', jsonb_build_object('jobId', p_id));
  END IF;
  RETURN true;
END $$;

-- The decisions are those of `offload.jobs._decisions.lapse`.
CREATE OR REPLACE FUNCTION offload_sweep(p_message text, p_type text) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
DECLARE
  v job;
  v_ours offload_job;
  v_ids record;
  v_message text;
  v_error text;
  v_retried text[] := '{}';
  v_failed text[] := '{}';
  v_cancelled text[] := '{}';
BEGIN
  FOR v IN SELECT * FROM job WHERE state = 'active' AND locked_until_ms <= offload_now()
    ORDER BY queue, id FOR UPDATE SKIP LOCKED LIMIT 500 LOOP
    v_message := replace(p_message, '%s', COALESCE(v.processed_by, 'of BullMQ'));
    v_error := json_build_array(p_type, v_message, '')::text;
    INSERT INTO offload_job (queue, id) VALUES (v.queue, v.id) ON CONFLICT DO NOTHING;
    PERFORM offload_keep_attempt(v, 'lapsed', v_error);
    UPDATE offload_job SET crashes = crashes + 1, error = v_error
      WHERE queue = v.queue AND id = v.id RETURNING * INTO v_ours;
    UPDATE job SET failed_reason = v_message, stacktrace = '[]' WHERE queue = v.queue
      AND id = v.id;
    IF v_ours.is_cancel_asked THEN
      UPDATE offload_job SET is_cancelled = true WHERE queue = v.queue AND id = v.id;
      PERFORM offload_fail(v.queue, v.id, '0', 'cancelled', NULL, v.attempts_made);
      v_cancelled := v_cancelled || v.id;
    ELSIF v_ours.crashes > COALESCE((v_ours.put::jsonb->'options'->>'max_crashes')::integer, 2) THEN
      PERFORM offload_fail(v.queue, v.id, '0', v_message, '[]', v.attempts_made);
      v_failed := v_failed || v.id;
    ELSE
      PERFORM offload_put_back(v.queue, v.id);
      v_retried := v_retried || v.id;
    END IF;
  END LOOP;
  FOR v_ids IN SELECT j.queue, j.id FROM offload_job o JOIN job j ON j.queue = o.queue
    AND j.id = o.id WHERE o.deadline_ms <= offload_now() AND j.state IN ('waiting', 'delayed')
    ORDER BY j.queue, j.id FOR UPDATE OF j SKIP LOCKED LIMIT 500 LOOP
    PERFORM offload_expire(v_ids.queue, v_ids.id);
    v_failed := v_failed || v_ids.id;
  END LOOP;
  SELECT COALESCE(array_agg(id ORDER BY n), '{}') INTO v_retried
    FROM unnest(v_retried) WITH ORDINALITY u(id, n) WHERE NOT id = ANY (v_failed);
  RETURN jsonb_build_array(v_retried, v_failed, v_cancelled);
END $$;

CREATE OR REPLACE FUNCTION offload_prune(p_most integer) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v record;
  v_count integer := 0;
BEGIN
  FOR v IN SELECT o.queue, o.id FROM offload_job o JOIN job j ON j.queue = o.queue AND j.id = o.id
    WHERE o.forget_ms <= offload_now() AND j.state IN ('completed', 'failed') LIMIT 500 LOOP
    PERFORM remove(v.queue, v.id, false);
    v_count := v_count + 1;
  END LOOP;
  IF p_most IS NOT NULL AND v_count < 500 THEN
    FOR v IN SELECT j.queue, j.id FROM job j LEFT JOIN offload_job o ON o.queue = j.queue
      AND o.id = j.id WHERE j.state IN ('completed', 'failed')
      ORDER BY j.finished_at_ms DESC, o.number DESC OFFSET p_most LIMIT 500 LOOP
      PERFORM remove(v.queue, v.id, false);
      v_count := v_count + 1;
    END LOOP;
  END IF;
  RETURN v_count;
END $$;

-- Have jobs of BullMQ's producers in the index.
CREATE OR REPLACE FUNCTION offload_adopt() RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
  INSERT INTO offload_job (queue, id) SELECT queue, id FROM job j WHERE NOT EXISTS
    (SELECT 1 FROM offload_job o WHERE o.queue = j.queue AND o.id = j.id)
    ORDER BY added_at_ms ON CONFLICT DO NOTHING
$$;
