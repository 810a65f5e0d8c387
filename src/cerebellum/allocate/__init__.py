"""Which tensor gets which type: trials planned, effects added up, policies."""
