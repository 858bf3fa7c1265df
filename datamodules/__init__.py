"""From text on disk to batches of integers on the device: no knowledge of `models/` or `bptt/`."""
