"""What runs in the measured process: the only place that imports torch and transformers."""
