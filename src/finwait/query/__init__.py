"""The filter language, grouping and ordering. No I/O."""
