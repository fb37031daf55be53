"""What every training run shares: the loop, the order of tiles, checkpoints, schedules, the journal."""
