"""What an export writes and how: planned, streamed, put in place, recorded."""
