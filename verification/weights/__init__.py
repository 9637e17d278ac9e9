"""Every tensor against its source."""
