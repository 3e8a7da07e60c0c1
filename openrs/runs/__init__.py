"""What stands on disk: the run directory, the client record, the ledger, the lease, the lock."""
