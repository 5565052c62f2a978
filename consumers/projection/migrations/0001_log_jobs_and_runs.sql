-- The log of everything that was stored, and what follows from it.

CREATE TABLE log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL
);

INSERT INTO log_head (position) VALUES (0);

-- superseded: said by a run that did not speak for its job any more when this was stored; kept, and not streamed.
CREATE TABLE events (
    position bigint PRIMARY KEY,
    event_id uuid NOT NULL UNIQUE,
    job_id uuid,
    type text NOT NULL,
    time timestamptz NOT NULL,
    superseded boolean NOT NULL,
    data json NOT NULL
);

CREATE INDEX events_of_a_job ON events (job_id, position) WHERE NOT superseded;

-- A row without spec belongs to a job whose request has not arrived, or could never be read.
CREATE TABLE jobs (
    job_id uuid PRIMARY KEY,
    request_id uuid,
    body_hash text,
    spec json,
    model_id text,
    task text,
    pool text,
    labels jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    cancel_requested_at timestamptz,
    attempt integer NOT NULL DEFAULT 0,
    run_id uuid,
    outcome text CHECK (outcome IN ('completed', 'failed', 'cancelled')),
    outcome_event_id uuid,
    outcome_position bigint,
    finished_at timestamptz,
    status text NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN outcome IS NOT NULL THEN outcome
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelling'
            WHEN run_id IS NOT NULL THEN 'running'
            ELSE 'queued'
        END
    ) STORED
);

CREATE INDEX jobs_newest_first ON jobs (created_at DESC, job_id DESC);
CREATE INDEX jobs_being_cancelled ON jobs (job_id) WHERE outcome IS NULL AND cancel_requested_at IS NOT NULL;
CREATE INDEX jobs_over ON jobs (finished_at) WHERE outcome IS NOT NULL;

CREATE FUNCTION keep_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.outcome, NEW.outcome_event_id, NEW.run_id, NEW.finished_at)
        IS DISTINCT FROM (OLD.outcome, OLD.outcome_event_id, OLD.run_id, OLD.finished_at) THEN
        RAISE EXCEPTION 'job % is over (%), and its outcome is final', OLD.job_id, OLD.outcome;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER outcome_is_final BEFORE UPDATE ON jobs
    FOR EACH ROW WHEN (OLD.outcome IS NOT NULL) EXECUTE FUNCTION keep_outcome();

-- heard_at is this database's clock: a worker's own clock is no measure of its silence.
CREATE TABLE runs (
    run_id uuid PRIMARY KEY,
    job_id uuid NOT NULL,
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    worker_id text,
    host text,
    device text,
    weights text,
    revision text,
    dtype text,
    started_at timestamptz,
    heard_at timestamptz NOT NULL,
    progress_seq integer NOT NULL DEFAULT -1,
    phase text,
    iteration integer,
    iterations integer,
    tokens integer,
    samples_emitted integer NOT NULL DEFAULT 0,
    outcome text,
    finished_at timestamptz,
    result json,
    failure json,
    records json,
    hardware_metrics json,
    warnings json
);

CREATE INDEX runs_of_a_job ON runs (job_id, attempt);

CREATE TABLE samples (
    run_id uuid NOT NULL,
    offset_ms double precision NOT NULL,
    phase text NOT NULL,
    cpu_percent double precision NOT NULL,
    ram_bytes bigint NOT NULL,
    system_cpu_percent double precision NOT NULL,
    system_ram_bytes bigint NOT NULL,
    gpus json NOT NULL,
    PRIMARY KEY (run_id, offset_ms)
);
