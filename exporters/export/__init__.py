"""An export from beginning to end: planned, decided layer by layer, streamed and recorded; and how long it takes."""
