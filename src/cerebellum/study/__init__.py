"""What was measured: the database, the runner of trials, the pool of workers."""
