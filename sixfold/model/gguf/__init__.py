"""How llama.cpp calls and lays out what a checkpoint holds: for the writers of GGUF files, exporter and imatrix."""
