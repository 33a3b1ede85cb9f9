"""What a job leaves behind: schema, parts, seal, and their checker."""
