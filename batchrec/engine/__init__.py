"""The engine: ledger, coordinator, pools and workers."""
