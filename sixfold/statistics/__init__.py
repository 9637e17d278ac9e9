"""What calibration measured, as exporters and the pruner read it."""
