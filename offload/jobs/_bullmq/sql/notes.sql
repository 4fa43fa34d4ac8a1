-- Notes: small texts by name, beside the jobs. `until_ms` is when one is forgotten.
CREATE TABLE IF NOT EXISTS offload_note (
  name text COLLATE "C" PRIMARY KEY,
  value text NOT NULL,
  until_ms bigint
);
CREATE INDEX IF NOT EXISTS offload_note_until ON offload_note (until_ms)
  WHERE until_ms IS NOT NULL;

-- Change notes: an array of [name, expected, value, lifetime in ms]. By name, so that two that
-- change the same ones do not wait for each other in a circle.
CREATE OR REPLACE FUNCTION offload_swap_notes(p_swaps jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  v record;
  v_now bigint := offload_now();
  v_replies jsonb := '{}';
  v_found text;
  v_is_as_wanted boolean;
BEGIN
  -- Some of those that are over, unless others are about it: more than this can add.
  DELETE FROM offload_note WHERE name IN (SELECT name FROM offload_note
    WHERE until_ms <= v_now LIMIT 2 * jsonb_array_length(p_swaps) FOR UPDATE SKIP LOCKED);
  FOR v IN SELECT e->>0 AS name, e->>1 AS expected, e->>2 AS value, (e->>3)::bigint AS lifetime,
    n::text AS number FROM jsonb_array_elements(p_swaps) WITH ORDINALITY a(e, n)
    ORDER BY (e->>0) COLLATE "C", n
  LOOP
    -- The lock of a name that may not be there yet.
    PERFORM pg_advisory_xact_lock(hashtextextended(v.name, 0));
    SELECT value INTO v_found FROM offload_note WHERE name = v.name
      AND (until_ms IS NULL OR until_ms > v_now);
    v_is_as_wanted := v_found IS NOT DISTINCT FROM v.expected
      OR v_found IS NOT DISTINCT FROM v.value;
    IF v_is_as_wanted AND v.value IS NULL THEN
      DELETE FROM offload_note WHERE name = v.name;
    ELSIF v_is_as_wanted THEN
      INSERT INTO offload_note VALUES (v.name, v.value, v_now + v.lifetime)
        ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value, until_ms = EXCLUDED.until_ms;
    END IF;
    v_replies := jsonb_set(v_replies, ARRAY[v.number], to_jsonb(v_is_as_wanted));
  END LOOP;
  RETURN v_replies;
END $$;
