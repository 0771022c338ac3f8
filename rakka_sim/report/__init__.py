"""What a run came to: records in, tables, percentiles, figures and files out; nothing here may change a record."""
