"""Many jobs at once: what is asked for, one ledger for all, and the workers that they share."""
