-- What can be benchmarked, and who runs benchmarks.

CREATE TABLE models (
    model_id text PRIMARY KEY,
    definition json NOT NULL,
    registered_at timestamptz NOT NULL,
    retired_at timestamptz
);

CREATE TABLE datasets (
    dataset_id text PRIMARY KEY,
    description text NOT NULL,
    row_count integer NOT NULL,
    rows json NOT NULL,
    registered_at timestamptz NOT NULL,
    retired_at timestamptz
);

CREATE TABLE workers (
    worker_id text PRIMARY KEY,
    report json NOT NULL,
    reported_at timestamptz NOT NULL,
    heard_at timestamptz NOT NULL
);
