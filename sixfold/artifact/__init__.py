"""What an export writes, and how it appears: planned, streamed, put in place, recorded."""
