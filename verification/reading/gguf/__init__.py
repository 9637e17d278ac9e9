"""GGUF files as weights under names on disk, by tables that are independent of the exporter's."""
