"""What the platform knows: jobs, servings and the ledger, in memory and on disk. No HTTP, no processes."""
