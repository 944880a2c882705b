"""The types that every room shares: columns, batches, tables, snapshots, requests."""
